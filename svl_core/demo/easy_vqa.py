"""Reads the public easy-VQA set (PyPI package `easy-vqa`, extra `train`): the outside yardstick."""

from __future__ import annotations

import functools

from PIL import Image

from svl_core.errors import InputError


def _package():
    try:
        import easy_vqa
    except ImportError:
        raise InputError(
            "Found no package easy-vqa; expected it for this data set; install it with: pip install"
            " easy-vqa."
        ) from None
    return easy_vqa


@functools.lru_cache(maxsize=8192)
def _open(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def grouped(split: str) -> list[tuple]:
    """[(function that opens the 64 x 64 image, [(question, answer), ...]), ...] for "train" (4,000
    images) or "test" (1,000).
    """
    package = _package()
    asked = getattr(package, f"get_{split}_questions")()
    paths = getattr(package, f"get_{split}_image_paths")()
    images: dict[int, list] = {}
    for question, answer, image in zip(*asked, strict=True):
        images.setdefault(image, []).append((question, answer))
    groups = []
    for image, pairs in images.items():
        open_image = functools.partial(_open, str(paths[image]))
        groups.append((open_image, pairs))
    return groups
