"""The smallest model of the catalogue that knows photographs: its size, and how long it would take
here over a picture, before anything of it is fetched.
"""

from __future__ import annotations

from types import SimpleNamespace

from svl_core.lvlm.catalogue import CatalogueEntry, catalogue

NAME = "HuggingFaceTB/SmolVLM-256M-Instruct"
TITLE = "SmolVLM-256M"
TILE, PATCH, TILE_TOKENS, EDGE = 512, 16, 64, 2048
"""Pixels of a tile and of a patch, visual tokens of a tile, and the longest edge that is read."""
ANSWER = 32  # tokens of an answer, assumed


def entry() -> CatalogueEntry:
    """Its row of the catalogue."""
    return next(entry for entry in catalogue() if entry.id == NAME)


def expected_seconds(width: int, height: int) -> float:
    """Seconds from a picture to both answers, once the model is loaded: an estimate, good to a
    factor of two.

    width, height: of the picture in pixels, which is read in the detail that the page would choose.
    """
    from svl_core.lvlm.detail import Size

    cost, sizes = _cost(), _sizes()
    products, weights = _speeds()
    picture = [Size(width, height)]

    def seconds(extent) -> float:
        return cost.operations(extent) / products

    detail = sizes.shortest(picture, seconds).detail
    pass_s = seconds(sizes.extents(picture)[detail])
    token_s = entry().parameters / weights
    return 2 * (pass_s + ANSWER * token_s)


def _speeds() -> tuple[float, float]:
    """Floating-point operations and weights read in a second where models are loaded."""
    import torch

    from svl_core.lvlm.arithmetic import products_per_second, weights_per_second
    from svl_core.lvlm.forecast import measured_speeds

    if torch.cuda.is_available():
        dtype = torch.bfloat16
        gflops, reading = measured_speeds(dtype, torch.device("cuda"))
        return gflops * 1e9, reading / dtype.itemsize
    return products_per_second(torch.float32), weights_per_second(torch.float32)


def _cost():
    """What a pass computes: SigLIP of 12 layers x 768, a projector from 4 x 4 patches, and a Llama
    of 30 layers x 576 (9 heads of 64, three of keys, MLP 1536).
    """
    from svl_core.lvlm.forecast import PassCost

    width, heads, head, shared, inner, depth = 576, 9, 64, 3, 1536, 30
    attention = 2 * width * heads * head + 2 * width * shared * head
    layer = attention + 3 * width * inner
    tower_width, tower_inner, tower_depth = 768, 3072, 12
    tower = tower_depth * (4 * tower_width**2 + 2 * tower_width * tower_inner)
    projector = 16 * tower_width * width
    return PassCost(
        layers=depth * layer,
        vision=tower + projector,
        attention=4 * depth * heads * head,
        vision_attention=4 * tower_depth * tower_width,
        window=(TILE // PATCH) ** 2,
    )


def _sizes():
    """The sizes in which it reads pictures."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    from svl_core.lvlm.detail import Setup, Sizes
    from svl_core.lvlm.families import FAMILIES

    family = next(row for row in FAMILIES if row.name == "SmolVLM")
    reading = SmolVLMImageProcessorPil(
        size={"longest_edge": EDGE}, max_image_size={"longest_edge": TILE}
    )
    processor = SimpleNamespace(image_processor=reading, image_seq_len=TILE_TOKENS)
    vision = SimpleNamespace(image_size=TILE, patch_size=PATCH)
    return Sizes(family, Setup(processor, SimpleNamespace(vision_config=vision)))
