"""Which arithmetic suits a processor: a model's own matrix products, timed in float32 and bfloat16.

Half precision halves what a decoded token reads, and processors with instructions for it multiply
several times as fast; others imitate it at a fraction of float32's speed. No flag of a processor
tells how much of that is left on the shapes of a given model, so a quarter of a second of its
largest products is run. Times are the process's processor time, the least of several runs that take
turns, so that what else runs on the machine hardly matters.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from svl_core.errors import InputError
from svl_core.lvlm import families, memory

CLEARLY = 1.15  # times as fast as float32, from which bfloat16 is chosen
TINY = 2**27  # bytes in float32 up to which a model is kept in it: its passes take no time anyway
SECONDS = 0.25  # of processor time that choosing may take, about
POSITIONS = 1024  # of the vision tower and of the decoder, in a typical question
ANSWER = 32  # tokens of a typical answer
# What a timed product is cut down to: numbers of a weight, and multiplications in all.
LARGEST_WEIGHT = 2**22
LARGEST_PRODUCT = 2**29
# Numbers of the different weights that a decoded token's products are timed on, so that they come
# from memory as in an answer.
READ_ANEW = 2**23
# What stands between a prompt's products (norms, activations, attention) takes about as long in
# either dtype: this share of their time in float32, as measured on a SigLIP tower and a decoder.
BESIDE = 0.4
HOPELESS = 4  # times as slow as float32 in the first run: then there is no second one
HALF = (torch.bfloat16, torch.float16)
# What may be asked for, by name; None: what suits the processor.
DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Arithmetic:
    """What a model computes in.

    dtype: of its weights and activations.
    reason: why, in a few words.
    """

    dtype: torch.dtype
    reason: str

    def __str__(self) -> str:
        return f"{name_of(self.dtype)}, {self.reason}"

    def without(self, attention: str | None) -> Arithmetic:
        """The same, which says that the attention of this name is not used; None says nothing."""
        if attention is None:
            return self
        told = f"{self.reason}; with transformers' own attention in the place of {attention}"
        return replace(self, reason=told)


ATTENTIONS = ("sdpa", "eager")  # those in which attention can be watched, anywhere


def usable_attention(config) -> str | None:
    """Lets a config that asks for another attention than `ATTENTIONS`, in the whole or a part, take
    the model's default one. Returns the name of the one that it asked for.
    """
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    asked = None
    for part in (config, *parts):
        named = getattr(part, "_attn_implementation", None)
        if named is not None and named not in ATTENTIONS:
            asked = asked or str(named)
            part._attn_implementation = None
    return asked


@dataclass(frozen=True)
class Product:
    """The matrix product that a part of a question mostly consists of.

    rows: positions that are multiplied at once.
    inner, columns: the weight's shape.
    share: multiplications of the whole part, of however many products.
    """

    rows: int
    inner: int
    columns: int
    share: int

    @property
    def timed(self) -> Product:
        """The same, cut down to what takes some milliseconds."""
        columns = min(self.columns, max(1, LARGEST_WEIGHT // self.inner))
        most = max(128, LARGEST_PRODUCT // (self.inner * columns))
        return Product(min(self.rows, most), self.inner, columns, self.share)


# Choosing


def known_dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """What a name of `DTYPES` stands for. Raises InputError for another one."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise InputError(
            f"Found the dtype {str(dtype)!r}; expected one of {', '.join(DTYPES)}; correct it."
        )
    return DTYPES[dtype]


def choose(
    model: Any,
    config,
    device: torch.device | None,
    asked: torch.dtype | None = None,
) -> Arithmetic:
    """The arithmetic for a model.

    What was asked for goes first. On a processor a model that is stored in bfloat16 stays so where
    float32 would take half of the free memory or more, or where its products are clearly faster
    (`CLEARLY`); else, and from float16, which no processor is known to gain from, it becomes
    float32. A float32 model stays so unless it fits into the memory as bfloat16 alone. Elsewhere
    models stay as stored.

    model: one of the class, which may be without weights.
    config: the whole model's.
    device: None for several.
    asked: None where nobody asked for a dtype.
    """
    if asked is not None:
        return Arithmetic(asked, "as asked for")
    stored = stored_dtype(config)
    if device is None or device.type != "cpu":
        return Arithmetic(stored, "as stored")
    parameters = families.count_parameters(model)
    free = memory.free_bytes(device)
    needed = memory.needed_bytes(parameters, torch.float32)
    if stored not in HALF:
        halved = memory.needed_bytes(parameters, torch.bfloat16)
        if stored == torch.float32 and free is not None and halved <= free < needed:
            return Arithmetic(torch.bfloat16, "for float32 does not fit into the free memory")
        return Arithmetic(stored, "as stored")
    if free is None or 2 * needed >= free:
        return Arithmetic(stored, "as stored: float32 would take most of the free memory")
    if 4 * parameters <= TINY:
        return Arithmetic(torch.float32, "for so small a model gains nothing from less")
    if stored == torch.float16:
        return Arithmetic(torch.float32, "for processors gain nothing from float16")
    gain = bfloat16_gain(products_of(model))
    if gain >= CLEARLY:
        return Arithmetic(torch.bfloat16, f"as stored: {gain:.2g} times as fast here as float32")
    return Arithmetic(torch.float32, f"for bfloat16 is only {gain:.2g} times as fast here")


def stored_dtype(config) -> torch.dtype:
    """What a checkpoint's config says that it is stored in; float32 where it says nothing."""
    text = config.get_text_config(decoder=True)
    stored = getattr(config, "dtype", None) or getattr(text, "dtype", None) or torch.float32
    return getattr(torch, stored) if isinstance(stored, str) else stored


def products_of(model: Any) -> tuple[Product, ...]:
    """What one question is made of: the vision tower's and the decoder's products over a prompt,
    and the decoder's for each token of an answer.
    """
    decoder = families.find_decoder(model)
    head = model.get_output_embeddings()
    known = {id(weight) for part in (decoder, head) if part for weight in part.parameters()}
    of_decoder = _weights(families.decoder_layers(model))
    of_vision = [weight for weight in _weights(model) if id(weight) not in known]
    products = [
        _product(of_vision, POSITIONS, POSITIONS),
        _product(of_decoder, POSITIONS, POSITIONS),
        _product(of_decoder, 1, ANSWER),
    ]
    return tuple(product for product in products if product is not None)


def _weights(part: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights of a part's linear maps, those of experts too."""
    return [
        weight
        for module in part.modules()
        if not isinstance(module, torch.nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.dim() in (2, 3)
    ]


def _product(
    weights: list[torch.nn.Parameter],
    rows: int,
    positions: int,
) -> Product | None:
    """The product with the shape that most of the weights have; None without weights.

    positions: that go through them in all, `rows` at once.
    """
    sizes: dict[tuple[int, int], int] = {}
    for weight in weights:
        columns, inner = weight.shape[-2:]
        sizes[inner, columns] = sizes.get((inner, columns), 0) + weight.numel()
    if not sizes:
        return None
    inner, columns = max(sizes, key=sizes.__getitem__)
    return Product(rows, inner, columns, positions * sum(sizes.values()))


# Timing


def bfloat16_gain(products: tuple[Product, ...]) -> float:
    """How many times as fast a question is in bfloat16 as in float32, here, by its products.

    Raises ValueError without products.
    """
    if not products:
        raise ValueError("Found no products; expected those of a model.")
    wide = narrow = 0.0
    for product in products:
        timed = product.timed
        count = product.share / (timed.rows * timed.inner * timed.columns)
        seconds = _compared(timed.rows, timed.inner, timed.columns, SECONDS / len(products))
        beside = BESIDE * seconds[0] if product.rows > 1 else 0.0
        wide += count * (seconds[0] + beside)
        narrow += count * (seconds[1] + beside)
    return wide / narrow


@functools.cache
def _compared(
    rows: int,
    inner: int,
    columns: int,
    budget: float,
) -> tuple[float, float]:
    """Processor seconds of one product in float32 and in bfloat16: measured once in a process.

    budget: processor seconds that the runs may take, about.
    """
    copies = 1 if rows > 1 else max(1, READ_ANEW // (inner * columns))
    work = [_multiplying(rows, inner, columns, copies, dtype) for dtype in _DTYPES]
    first = [_seconds(run) for run in work]
    if first[1] > HOPELESS * first[0]:
        return first[0] / copies, first[1] / copies
    least = [math.inf, math.inf]
    spent = sum(first)
    while spent < budget or math.inf in least:
        for place, run in enumerate(work):
            took = _seconds(run)
            least[place] = min(least[place], took)
            spent += took
    return least[0] / copies, least[1] / copies


_DTYPES = (torch.float32, torch.bfloat16)


@torch.inference_mode()
def _multiplying(
    rows: int,
    inner: int,
    columns: int,
    copies: int,
    dtype: torch.dtype,
) -> Callable[[], None]:
    """A function that multiplies `rows` positions by each of some weights, as a layer does."""
    positions = torch.ones(rows, inner, dtype=dtype)
    weights = [torch.ones(columns, inner, dtype=dtype) for _ in range(copies)]

    @torch.inference_mode()
    def multiply() -> None:
        for weight in weights:
            torch.nn.functional.linear(positions, weight)

    return multiply


def _seconds(work: Callable[[], None]) -> float:
    """Processor seconds of the whole process while `work` runs, never none."""
    began = time.process_time()
    work()
    return max(time.process_time() - began, 1e-9)


@functools.cache
def products_per_second(dtype: torch.dtype) -> float:
    """Floating-point operations of products (a multiplication and an addition are two) that a pass
    over a typical prompt makes in a second, with all of torch's threads and with what stands
    between the products; measured once in a process, in processor time, so that it holds for a
    machine that is free.
    """
    rows, width = 512, 1024
    seconds = _alone(rows, width, dtype) + BESIDE * _alone(rows, width, torch.float32)
    return 2 * rows * width**2 * torch.get_num_threads() / seconds


@functools.cache
def weights_per_second(dtype: torch.dtype) -> float:
    """Weights that one position is multiplied by in a second, read anew from the memory as each
    token of an answer has it; measured as `products_per_second` is.
    """
    width = 1024
    copies = max(1, READ_ANEW // width**2)
    multiply = _multiplying(1, width, width, copies, dtype)
    seconds = min(_seconds(multiply) for _ in range(8))
    return copies * width**2 * torch.get_num_threads() / seconds


@functools.cache
def _alone(rows: int, width: int, dtype: torch.dtype) -> float:
    """Processor seconds of one square product: the least of some runs, of fewer where they are
    long.
    """
    multiply = _multiplying(rows, width, width, 1, dtype)
    runs: list[float] = []
    while len(runs) < 4 and sum(runs) < SECONDS / 2:
        runs.append(_seconds(multiply))
    return min(runs)


# What else makes passes quick on a processor


def lay_out(model: torch.nn.Module) -> None:
    """Lays the weights of a vision tower's convolutions out with the channels last.

    The patches that they make then lie one behind the other, as the tower's layers read them;
    otherwise every norm and every sum of the residual stream goes through them crosswise (a SigLIP
    tower: a tenth of its time). A tiny model stays as it is.
    """
    if 4 * families.count_parameters(model) > TINY:
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                weight = module.weight.data
                module.weight.data = weight.contiguous(memory_format=torch.channels_last)


def last_position(
    dtype: torch.dtype,
    device: torch.device,
    length: int,
) -> int | torch.Tensor:
    """`logits_to_keep` of a pass for the prediction after the last of `length` positions.

    By a number the last states are a slice of all, whose rows lie far apart. In half precision on a
    processor torch then multiplies by a transposed copy of the whole head: 12 s instead of 0.1 s
    for 152,000 tokens of 1,536 numbers. By an index the states themselves are copied.

    dtype, device: the model's.
    """
    if device.type != "cpu" or dtype not in HALF:
        return 1
    return torch.tensor([length - 1])


def limit_threads() -> None:
    """Lets torch run no more threads than a container is given processors, unless the environment
    names a number: torch itself counts those of the whole machine.
    """
    allowed = processors_allowed()
    if "OMP_NUM_THREADS" not in os.environ and allowed is not None:
        threads = max(1, math.ceil(allowed))
        if threads < torch.get_num_threads():
            torch.set_num_threads(threads)


def processors_allowed(groups: Path = Path("/sys/fs/cgroup")) -> float | None:
    """How many processors' time a container may use; None where nothing says so.

    groups: where the control groups lie, of version 2 or 1.
    """
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((groups / file).read_text() for file in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def name_of(dtype: torch.dtype) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")
