"""Visual detail at the sizes of real models: visual tokens computed on paper, and what is chosen
where a pass should be short.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from svl_core.errors import InputError
from svl_core.lvlm import arithmetic, detail, forecast
from svl_core.lvlm.detail import Extent, Setup, Size, Sizes
from svl_core.lvlm.families import FAMILIES
from svl_core.recipe import BALANCED, FULL, QUICK

SCREEN = Size(640, 480)
PHOTO = Size(4000, 3000)


def vision(side, patch):
    return SimpleNamespace(vision_config=SimpleNamespace(image_size=side, patch_size=patch))


def sizes_of(name, image_processor, config, **processor):
    family = next(row for row in FAMILIES if row.name == name)
    whole = SimpleNamespace(image_processor=image_processor, **processor)
    return Sizes(family, Setup(whole, config))


def smolvlm():
    """SmolVLM-256M: a longest edge of 2048 pixels, tiles of 512, 64 visual tokens each."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    pixels = SmolVLMImageProcessorPil(
        size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
    )
    return sizes_of("SmolVLM", pixels, vision(512, 16), image_seq_len=64)


def qwen2_vl():
    """Qwen2-VL: patches of 14 pixels, four of them a visual token, at most 16,384."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056)
    return sizes_of("Qwen2-VL", pixels, vision(None, 14))


def pixtral():
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    pixels = PixtralImageProcessorPil()
    config = vision(1024, 16)
    return sizes_of("LLaVA (Pixtral)", pixels, config, patch_size=16, spatial_merge_size=1)


def mistral3():
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    pixels = PixtralImageProcessorPil(size={"longest_edge": 1540})
    return sizes_of("Mistral3", pixels, vision(1540, 14), patch_size=14, spatial_merge_size=2)


def internvl():
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    pixels = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, max_patches=12)
    whole = {"image_seq_length": 256, "images_kwargs": {"crop_to_patches": True}}
    return sizes_of("InternVL", pixels, vision([448, 448], [14, 14]), **whole)


def llava_onevision():
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    config = vision(384, 14)
    config.image_grid_pinpoints = LlavaOnevisionImageProcessorPil.image_grid_pinpoints
    config.vision_aspect_ratio = "anyres_max_9"
    return sizes_of("LLaVA-OneVision", LlavaOnevisionImageProcessorPil(), config)


def llava_next():
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    config = vision(336, 14)
    config.image_grid_pinpoints = LlavaNextImageProcessorPil.image_grid_pinpoints
    return sizes_of("LLaVA-NeXT", LlavaNextImageProcessorPil(), config)


def gemma4():
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    return sizes_of("Gemma4", Gemma4ImageProcessorPil(), vision(None, 16))


@pytest.mark.parametrize(
    "make, picture, full, balanced, quick",
    [
        # 4 x 3, 2 x 2 tiles and the whole picture; the whole picture
        (smolvlm, SCREEN, 13 * 64, 5 * 64, 64),
        (smolvlm, Size(2000, 200), (4 * 1 + 1) * 64, (2 * 1 + 1) * 64, 64),
        # 143 x 107 tokens of 28 pixels; the largest grids of this shape within 512 and 128
        (qwen2_vl, PHOTO, 143 * 107, 26 * 19, 13 * 9),
        (qwen2_vl, Size(280, 140), 10 * 5, 10 * 5, 10 * 5),
        (pixtral, PHOTO, 64 * 48, 32 * 24, 16 * 12),
        (mistral3, PHOTO, 55 * 42, 28 * 21, 14 * 11),
        # 4 x 3, 2 x 2 tiles and a thumbnail; one tile
        (internvl, PHOTO, 13 * 256, 5 * 256, 256),
        # 6 x 5 tiles pooled to 93 x 70, 2 x 2 tiles without padding, each row with a newline
        (llava_onevision, PHOTO, 729 + 70 * 94, 729 + 40 * 55, 730),
        # 2 x 2 tiles, 2 x 1 tiles without padding
        (llava_next, PHOTO, 576 + 36 * 49, 576 + 24 * 33, 576 + 24 * 33),
        (gemma4, PHOTO, 19 * 14, 13 * 10, 9 * 7),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_visual_tokens_of_real_models(make, picture, full, balanced, quick):
    counted = make().extents([picture])
    tokens = {name: extent.tokens for name, extent in counted.items()}
    assert tokens == {FULL: full, BALANCED: balanced, QUICK: quick}


def test_patches_of_real_models():
    assert smolvlm().extents([SCREEN])[FULL].patches == 13 * 32 * 32
    assert qwen2_vl().extents([PHOTO])[QUICK].patches == 13 * 9 * 4
    assert llava_onevision().extents([PHOTO])[QUICK].patches == 27 * 27
    assert llava_next().extents([PHOTO])[QUICK].patches == 3 * 24 * 24
    assert gemma4().extents([PHOTO])[QUICK].patches == 70 * 9  # padded


def test_a_processor_that_reads_little_has_less_to_give_up():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=100 * 28**2)
    sizes = sizes_of("Qwen2-VL", pixels, vision(None, 14))
    assert [sizes.levels[name].amount for name in (FULL, BALANCED, QUICK)] == [None, 50, 25]
    sizes = smolvlm()
    sizes.setup.image_processor.do_image_splitting = False
    assert sizes.one and list(dataclasses.replace(sizes).levels) == [FULL]


def test_the_levels_between_have_names_of_their_own():
    assert smolvlm().level([SCREEN], FULL, 640).name == "at most 3 tiles along the longest edge"
    assert smolvlm().level([SCREEN], FULL, 320).name == BALANCED
    most = qwen2_vl().level([PHOTO], FULL, 1000)
    assert most.name == f"pixels for {most.amount} visual tokens"
    assert qwen2_vl().extent(most, [PHOTO]).tokens == 37 * 27  # 37 x 28 would be too many
    assert qwen2_vl().level([PHOTO], BALANCED, 1000).name == BALANCED
    with pytest.raises(
        InputError, match="limit of 63 visual tokens; expected at least 64, the few"
    ):
        smolvlm().level([SCREEN], FULL, 63)


# What keeps a pass short


def test_the_highest_detail_that_takes_a_few_seconds():
    def chosen(tokens_per_second):
        choice = smolvlm().shortest([SCREEN], lambda extent: extent.tokens / tokens_per_second)
        assert choice.seconds[FULL] == 832 / tokens_per_second
        return choice.detail

    within = detail.FEW_SECONDS
    assert chosen(832 / within) == FULL
    assert chosen(831 / within) == BALANCED
    assert chosen(319 / within) == QUICK
    assert chosen(1e-9) == QUICK
    one = smolvlm()
    one.setup.image_processor.do_image_splitting = False
    assert one.shortest([SCREEN], lambda extent: 1e9) == detail.Choice(FULL, {})


def test_operations_of_a_pass_by_hand():
    cost = forecast.PassCost(layers=1000, vision=500, attention=8, vision_attention=4, window=16)
    found = cost.operations(Extent(tokens=36, patches=64), text=64)
    assert found == 2 * 1000 * 100 + 8 * 100 * 100 / 2 + 2 * 500 * 64 + 4 * 64 * 16
    whole = dataclasses.replace(cost, window=None).operations(Extent(36, 64), text=64)
    assert whole - found == 4 * 64 * (64 - 16)


def test_a_models_shape(tiny):
    cost = forecast.pass_cost(tiny.model)
    layers = sum(p.numel() for p in tiny.layers.parameters())
    tower = (tiny.model.model.vision_tower, tiny.model.model.multi_modal_projector)
    assert cost.layers == layers
    assert cost.vision == sum(p.numel() for part in tower for p in part.parameters())
    assert cost.attention == 4 * 6 * 4 * 16 and cost.vision_attention == 4 * 2 * 32
    assert cost.window == 36


def test_products_are_measured_once():
    speed = arithmetic.products_per_second(torch.float32)
    assert speed > 0 and arithmetic.products_per_second(torch.float32) == speed
