"""The stand-in for torchvision gives what pillow and paper give, and is gone afterwards."""

import sys

import numpy as np
import pytest
import stand_in_torchvision as stand_in
import torch
import transformers
from tiny import picture
from transformers.utils.import_utils import is_torchvision_available

from svl_core.errors import InputError

pytestmark = pytest.mark.skipif(stand_in.INSTALLED, reason="torchvision itself is installed")


def test_a_row_of_two_is_stretched_by_hand():
    """Of 0 and 100: the middles of four pixels lie at -1/4, 1/4, 3/4 and 5/4 of the old ones."""
    row = torch.tensor([[[0, 100]]], dtype=torch.uint8)
    made = stand_in.resize(row, (1, 4))
    assert made.dtype is torch.uint8 and made.tolist() == [[[0, 25, 75, 100]]]
    nearest = stand_in.resize(row, (2, 4), stand_in.InterpolationMode.NEAREST_EXACT)
    assert nearest.tolist() == [[[0, 0, 100, 100]] * 2]


def test_padding_is_left_top_right_bottom():
    image = torch.ones(2, 1, 1)
    made = stand_in.pad(image, [1, 0, 2, 1], fill=[5, 7])
    assert made.tolist() == [[[5, 1, 5, 5], [5] * 4], [[7, 1, 7, 7], [7] * 4]]


def test_values_are_scaled_and_normed():
    image = torch.tensor([[[0.0, 0.5]], [[1.0, 0.25]]])
    normed = stand_in.normalize(image, [0.5, 0.0], [0.5, 2.0])
    assert normed.tolist() == [[[-1.0, 0.0]], [[0.5, 0.125]]]
    grey = torch.tensor([[[51]]], dtype=torch.uint8)
    assert stand_in.to_dtype(grey, scale=True).tolist() == [[[pytest.approx(0.2)]]]
    assert stand_in.grayscale_to_rgb(grey).tolist() == [[[51]]] * 3


@pytest.mark.parametrize(
    ("model", "name", "settings"),
    [
        ("clip", "CLIP", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
        ("siglip", "Siglip", {"size": {"height": 40, "width": 56}}),
        ("qwen2_vl", "Qwen2VL", {"size": {"shortest_edge": 28**2, "longest_edge": 28**2 * 9}}),
        ("deepseek_vl", "DeepseekVL", {"size": {"height": 48, "width": 48}}),
    ],
)
def test_a_processor_that_borrows_reads_as_its_twin_of_pillow(model, name, settings):
    """Resizing, cropping, padding to a square and norming. Pillow rounds and clips between its two
    passes, so that single bytes of noise differ by a few steps (0.015 each), but hardly the mean.
    """
    from importlib import import_module

    home = import_module(f"transformers.models.{model}.image_processing_pil_{model}")
    twin = getattr(home, f"{name}ImageProcessorPil")(**settings)
    borrowing = stand_in.image_processor(model, f"{name}ImageProcessor")(**settings)
    for size in ((150, 90), (77, 131)):
        expected = np.asarray(twin(picture(*size), return_tensors="np")["pixel_values"])
        made = borrowing(picture(*size), return_tensors="pt")["pixel_values"].numpy()
        difference = np.abs(made.reshape(-1) - expected.reshape(-1))
        assert difference.max() < 0.1 and difference.mean() < 0.005


def test_nothing_is_left_behind():
    from zoo_torchvision import kimi_k25

    kimi_k25()
    home = sys.modules["transformers.models.kimi_k25"]
    assert "torchvision" not in sys.modules
    assert not any(name.endswith("image_processing_kimi_k25") for name in sys.modules)
    assert "image_processing_kimi_k25" not in vars(home)
    assert not hasattr(transformers.image_processing_backends, "tvF")
    assert transformers.image_utils.pil_torch_interpolation_mapping == {}
    assert not is_torchvision_available()
    with pytest.raises(ImportError, match="Torchvision"):
        transformers.Kimi_K25ImageProcessor()


def test_a_user_without_torchvision_is_told_so(tmp_path):
    from zoo_torchvision import kimi_k25

    from svl_core.lvlm.processors import load_processor

    config, processor = kimi_k25()
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="needs the package torchvision; expected it to be inst"):
        load_processor(tmp_path, config)
