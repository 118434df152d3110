"""Processors for still images, whose halves for videos and sounds are left out."""

import pytest
from builders import square_pixels, template, tokenizer
from tiny import picture

from svl_core.lvlm.processors import still_class


def test_a_constructor_may_read_settings_of_a_half_that_is_left_out():
    """MiniCPM-V's copies those of its half for videos: it has none, and images are read."""
    from zoo_h_to_z import minicpmv4_6

    _, processor = minicpmv4_6()
    assert processor.video_slice_mode is None and processor.video_token_divisor == 16
    read = processor(text=["<image_pad> what"], images=[[picture(40, 40)]], return_tensors="pt")
    assert (read["input_ids"] == processor.image_token_id).sum() > 0


def test_a_half_that_is_left_out_is_none_that_could_be_called():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil(**square_pixels(16))
    words = tokenizer("<image>", "<video>")
    processor = still_class("VideoLlavaProcessor")(
        pixels, None, words, patch_size=8, chat_template=template("<image>")
    )
    assert processor.get_attributes() == ["image_processor", "tokenizer"]
    assert processor.video_processor.size is None
    assert processor.video_processor.model_input_names == []
    with pytest.raises(TypeError, match="not callable"):
        processor.video_processor([])
