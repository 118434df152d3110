"""What an analysis would take in memory and time, from a model's config alone: only small files are
downloaded, and no weight is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from svl_core.lvlm import families
from svl_core.lvlm.arithmetic import name_of
from svl_core.lvlm.detail import Extent
from svl_core.lvlm.skeleton import empty

TEXT = 64  # text tokens assumed beside the image's
POSITIONS = 2048  # of a prompt whose image tokens are not in the config


@dataclass(frozen=True)
class Forecast:
    """What an analysis of some calibration samples takes: an estimate, good to a factor of two.

    model, dtype, device, layers, hidden_size: the model's.
    positions: of each prompt.
    patches: of each prompt's images in the vision tower, where they are known.
    samples: how many prompts.
    parameters: counts by the model's parts.
    memory: bytes by what holds them. Alive together are the weights, one pass, the traces kept and
        one compensation; `usual_maps` is what attention maps and hidden states of one pass would
        take, which are never made.
    seconds: by what takes them: floating-point operations over `gflops`, for a decoded token the
        weights over the memory's speed.
    gflops: the speed that this machine shows on products in that dtype, GFLOP/s.
    dtype_reason: why it is that dtype.
    """

    model: str
    dtype: str
    device: str
    layers: int
    hidden_size: int
    positions: int
    samples: int
    parameters: dict[str, int]
    memory: dict[str, int]
    seconds: dict[str, float]
    gflops: float
    patches: int | None = None
    dtype_reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def steps(
    device: torch.device,
    heads: int,
    length: int,
) -> tuple[int, int]:
    """Queries and heads whose attention statistics are looked at together: on a processor a head
    for each thread, more of short sequences, whose steps cost more than their sums; fewer and
    larger steps for a GPU.
    """
    if device.type != "cpu":
        return 512, min(heads, 512)
    chunk = 128 if length < 2048 else 256
    return chunk, min(heads, max(torch.get_num_threads(), 2**20 // (chunk * length)))


def prompt_positions(config) -> int:
    """Positions of a prompt with one image, by the config where it says how many an image takes."""
    visual = getattr(config, "image_seq_length", None)
    visual = visual or getattr(config, "mm_tokens_per_image", None)
    return visual + TEXT if isinstance(visual, int) else POSITIONS


def forecast(
    name: str,
    model_class: type,
    config,
    dtype: torch.dtype,
    device: torch.device,
    *,
    positions: int,
    patches: int | None = None,
    samples: int = 1,
    mlp: bool = False,
    speeds: tuple[float, float] | None = None,
) -> Forecast:
    """patches: of the images in the vision tower (default: as many as there are positions).
    mlp: traces keep the MLPs' outputs too, for "lstsq". speeds: (GFLOP/s, bytes/s) instead of
    measured ones.
    """
    model = empty(model_class, config)
    decoder = families.find_decoder(model)
    text = config.get_text_config(decoder=True)
    layers = families.decoder_layers(model)
    count = {
        "all": families.count_parameters(model),
        "layers": sum(p.numel() for p in layers.parameters()),
    }
    head = model.get_output_embeddings()
    count["vision_and_projector"] = count["all"] - sum(
        {
            id(p): p.numel()
            for part in (decoder, head)
            if part is not None
            for p in part.parameters()
        }.values()
    )
    cost = pass_cost(model)
    del model
    size = dtype.itemsize
    depth = len(layers)
    width = text.hidden_size
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or width // heads
    shared = getattr(text, "num_key_value_heads", None) or heads
    chunk, group = steps(device, heads, positions)
    inner = (
        text.intermediate_size
        if isinstance(text.intermediate_size, int)
        else max(text.intermediate_size)
    )
    trace = (
        (depth + 1) * positions * width * size
        + positions * (depth + 1) ** 2 * 8
        + 10 * depth * positions * 4
        + (depth * positions * width * size if mlp else 0)
    )
    memory = {
        "weights": count["all"] * size,
        "one_pass": (
            positions * (3 * inner + 4 * width) * size
            + (2 * group + 1) * min(chunk, positions) * positions * 4
            + heads * head_size * positions * 4
        ),
        "traces": samples * trace,
        "key_value_cache": 2 * depth * positions * shared * head_size * size,
        "compensation": 3 * width * width * 8,
        "pruned_view_each_run": width * inner * size,
        "usual_maps": depth * heads * positions**2 * size + (depth + 1) * positions * width * size,
    }
    gflops, bandwidth = speeds or measured_speeds(dtype, device)
    attention = 2 * depth * positions**2 * heads * head_size  # half of the square: causal
    seen = positions if patches is None else patches
    passing = cost.operations(Extent(positions, seen), text=0)
    statistics = attention
    seconds = {
        "one_pass": passing / gflops / 1e9,
        "trace_one_sample": (passing + statistics) / gflops / 1e9,
        "trace_all": samples * (passing + statistics) / gflops / 1e9,
        "each_answer_token": memory["weights"] / bandwidth,
    }
    return Forecast(
        name,
        name_of(dtype),
        str(device),
        depth,
        width,
        positions,
        samples,
        count,
        memory,
        seconds,
        gflops,
        patches,
    )


@dataclass(frozen=True)
class PassCost:
    """What one pass computes, from the shape of a model that is there.

    layers, vision: parameters of the decoder's layers, and of the vision tower with its projector.
    attention: of the decoder, operations for each pair of positions.
    vision_attention: of the vision tower, for each pair of patches.
    window: patches that attend to each other; None: all of a prompt.
    """

    layers: int
    vision: int
    attention: int
    vision_attention: int
    window: int | None

    def operations(self, extent: Extent, text: int = TEXT) -> float:
        """Floating-point operations of a pass over pictures and `text` further positions."""
        positions = extent.tokens + text
        seen = min(self.window or extent.patches, extent.patches)
        return (
            2.0 * self.layers * positions
            + self.attention * positions**2 / 2  # causal
            + 2.0 * self.vision * extent.patches
            + self.vision_attention * extent.patches * seen
        )


def pass_cost(model) -> PassCost:
    """The shape of a loaded model, see `PassCost`."""
    text = model.config.get_text_config(decoder=True)
    vision = getattr(model.config, "vision_config", None)
    layers = families.decoder_layers(model)
    head = model.get_output_embeddings()
    of_text = {
        id(parameter)
        for part in (families.find_decoder(model), head)
        if part is not None
        for parameter in part.parameters()
    }
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return PassCost(
        layers=sum(parameter.numel() for parameter in layers.parameters()),
        vision=sum(p.numel() for p in model.parameters() if id(p) not in of_text),
        attention=4 * len(layers) * heads * head_size,
        vision_attention=4 * _first(vision, VISION_DEPTHS) * _first(vision, VISION_WIDTHS),
        window=_window(vision),
    )


VISION_DEPTHS = ("num_hidden_layers", "depth")
VISION_WIDTHS = ("embed_dim", "hidden_size")
"""What vision configs call their number of layers and their width; the first one that there is."""


def _first(config: Any, names: tuple[str, ...]) -> int:
    """The first of these settings that is a number, 0 where none is."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), 0)


def _window(vision: Any) -> int | None:
    """Patches of a vision tower that reads tiles of one size, None for one that does not."""
    side, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    if isinstance(side, int) and isinstance(patch, int):
        return (side // patch) ** 2
    return None


def measured_speeds(
    dtype: torch.dtype,
    device: torch.device,
    width: int = 1024,
    blocks: int = 16,
) -> tuple[float, float]:
    """(GFLOP/s of products in `dtype`, bytes/s read from memory) of a device: the best of three
    short runs; of fewer where they are long, as in a dtype that the processor lacks.
    """
    a = torch.ones(width, width, dtype=dtype, device=device)
    b = torch.ones(width, width, dtype=dtype, device=device)
    long = torch.ones(2**25, device=device)

    def best(work: Callable[[], object]) -> float:
        seconds: list[float] = []
        while len(seconds) < 4 and sum(seconds) < 1:
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
        return min(seconds[1:] or seconds)

    blocks = blocks if best(lambda: a @ b) < 0.05 else 1
    products = best(lambda: [a @ b for _ in range(blocks)])
    reading = best(lambda: float(long.sum()))
    operations = 2 * width**3 * blocks
    return operations / products / 1e9, long.numel() * long.element_size() / reading


UNITS = {
    "B": (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)),
    "s": (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)),
}


def readable(number: float, unit: str) -> str:
    """12345678901 bytes -> "12.3 GB"; 0.012 s -> "12 ms"."""
    steps = UNITS[unit]
    name, step = next(((name, step) for name, step in steps if number >= step), steps[-1])
    return f"{number / step:.3g} {name}"
