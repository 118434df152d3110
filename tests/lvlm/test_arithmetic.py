"""What a model computes in: the choice by rules and by measured products, against numbers computed
on paper; no clock is read.
"""

import copy
import dataclasses
import os

import builders
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import arithmetic, memory
from svl_core.lvlm.batching import collate
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.replay import record

CPU = torch.device("cpu")


@pytest.fixture
def unmeasured(monkeypatch):
    """Fails where anything is timed."""

    def timed(products):
        raise AssertionError("nothing is measured here")

    monkeypatch.setattr(arithmetic, "bfloat16_gain", timed)


@pytest.mark.parametrize(
    "stored, gain, free_gb, tiny_bytes, wanted",
    [
        ("bfloat16", 1.15, 100, 0, "bfloat16"),
        ("bfloat16", 1.14, 100, 0, "float32"),
        ("bfloat16", 0.1, 100, 0, "float32"),
        ("bfloat16", 0.1, 1e-6, 0, "bfloat16"),
        ("bfloat16", 9, 100, 2**31, "float32"),
        ("float16", 9, 100, 0, "float32"),
        ("float16", 9, 1e-6, 0, "float16"),
        ("float32", 9, 100, 0, "float32"),
        ("float32", 9, 1e-6, 0, "float32"),
    ],
    ids=[
        "clearly faster",
        "a little faster: a tie",
        "slower",
        "no memory for float32",
        "tiny",
        "float16 is slow on every processor",
        "no memory for float16 made wider",
        "as stored",
        "no memory for either",
    ],
)
def test_the_choice(tiny, monkeypatch, stored, gain, free_gb, tiny_bytes, wanted):
    config = copy.deepcopy(tiny.model.config)
    config.dtype = config.text_config.dtype = stored
    monkeypatch.setattr(arithmetic, "bfloat16_gain", lambda products: gain)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free_gb * 1e9))
    monkeypatch.setattr(arithmetic, "TINY", tiny_bytes)
    chosen = arithmetic.choose(tiny.model, config, CPU)
    assert chosen.dtype == getattr(torch, wanted)
    assert str(chosen).startswith(f"{wanted}, ") and chosen.reason


def test_float32_gives_way_where_only_half_of_it_fits(tiny, monkeypatch):
    halved = memory.needed_bytes(tiny.num_parameters, torch.bfloat16)
    whole = memory.needed_bytes(tiny.num_parameters, torch.float32)
    config = tiny.model.config
    for free, wanted in (
        (whole, torch.float32),
        (whole - 1, torch.bfloat16),
        (halved, torch.bfloat16),
        (halved - 1, torch.float32),
    ):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert arithmetic.choose(tiny.model, config, CPU).dtype == wanted


def test_what_was_asked_for_goes_first(tiny, unmeasured, monkeypatch):
    monkeypatch.setattr(arithmetic, "TINY", 0)
    for name in ("float32", "bfloat16", "float16"):
        chosen = arithmetic.choose(tiny.model, tiny.model.config, CPU, arithmetic.known_dtype(name))
        assert str(chosen) == f"{name}, as asked for"
    assert arithmetic.known_dtype("auto") is None
    with pytest.raises(InputError, match="float64"):
        arithmetic.known_dtype("float64")


def test_elsewhere_models_stay_as_stored(tiny, unmeasured):
    config = copy.deepcopy(tiny.model.config)
    config.dtype = "bfloat16"
    for device in (torch.device("cuda", 0), None):
        assert arithmetic.choose(tiny.model, config, device).dtype == torch.bfloat16


def test_the_bundled_model_stays_in_float32(unmeasured):
    lvlm = svl.load("demo", device="cpu")
    assert lvlm.dtype == torch.float32 and lvlm.arithmetic.reason == "as stored"


# Products


def test_the_products_of_a_question(tiny):
    """Layers: two of 64 x 128, one of 128 x 64, two of 64 x 64 and two of 64 x 32."""
    layer = 3 * 64 * 128 + 2 * 64 * 64 + 2 * 64 * 32
    maps = [
        module.weight.numel()
        for path, module in tiny.model.named_modules()
        if isinstance(module, torch.nn.Linear) and ("vision" in path or "projector" in path)
    ]
    vision, prompt, answer = arithmetic.products_of(tiny.model)
    assert (vision.rows, vision.share) == (arithmetic.POSITIONS, arithmetic.POSITIONS * sum(maps))
    assert prompt == arithmetic.Product(
        arithmetic.POSITIONS, 64, 128, arithmetic.POSITIONS * 6 * layer
    )
    assert answer == arithmetic.Product(1, 64, 128, arithmetic.ANSWER * 6 * layer)


def test_a_large_product_is_cut_down():
    timed = arithmetic.Product(1024, 8192, 28672, 7).timed
    assert timed.inner * timed.columns <= arithmetic.LARGEST_WEIGHT
    assert (timed.rows, timed.inner, timed.share) == (128, 8192, 7)
    assert arithmetic.Product(1024, 64, 128, 7).timed == arithmetic.Product(1024, 64, 128, 7)
    assert arithmetic.Product(1, 64, 128, 7).timed.rows == 1


@pytest.fixture
def clock(monkeypatch):
    """Products take what it says, and are counted: {dtype: [seconds of each run to come]}."""
    runs = {torch.float32: [], torch.bfloat16: [], torch.float16: []}
    now = [0.0]

    def multiplying(rows, inner, columns, copies, dtype):
        def multiply():
            now[0] += copies * runs[dtype].pop(0)

        return multiply

    monkeypatch.setattr(arithmetic, "_multiplying", multiplying)
    monkeypatch.setattr(arithmetic.time, "process_time", lambda: now[0])
    for cached in (arithmetic._compared, arithmetic._alone, arithmetic.products_per_second):
        cached.cache_clear()
    yield runs
    for cached in (arithmetic._compared, arithmetic._alone, arithmetic.products_per_second):
        cached.cache_clear()


def test_the_least_of_several_runs_counts_and_the_first_does_not(clock):
    clock[torch.float32] += [1, 8, 6, 7, 9]
    clock[torch.bfloat16] += [1, 4, 5, 3, 9]
    assert arithmetic._compared(256, 64, 128, 30) == (6, 3)
    assert arithmetic._compared(256, 64, 128, 30) == (6, 3)  # not run again


def test_an_imitated_dtype_is_run_once(clock):
    clock[torch.float32].append(2)
    clock[torch.bfloat16].append(8.1)
    assert arithmetic._compared(256, 64, 128, 1000) == (2, 8.1)


def test_a_decoded_token_reads_weights_anew(clock):
    """The time of one of several different weights."""
    clock[torch.float32] += [0.5] * 2
    clock[torch.bfloat16] += [0.25] * 2
    assert arithmetic._compared(1, 1024, 1024, 0) == (0.5, 0.25)


def test_the_gain_by_hand(clock):
    """A pass of 10 products that take 4 and 1 s, beside which 0.4 x 4 s pass in either dtype, and
    100 products of a token that take 0.5 s in both.
    """
    clock[torch.float32] += [4, 4, 0.5, 0.5]
    clock[torch.bfloat16] += [1, 1, 0.5, 0.5]
    products = (
        arithmetic.Product(128, 64, 32, 10 * 128 * 64 * 32),
        arithmetic.Product(1, 2048, 2048, 100 * 2048 * 2048),
    )
    wide = 10 * (4 + 1.6) + 100 * 0.5
    narrow = 10 * (1 + 1.6) + 100 * 0.5
    assert arithmetic.bfloat16_gain(products) == pytest.approx(wide / narrow)
    with pytest.raises(ValueError, match="no products"):
        arithmetic.bfloat16_gain(())


def test_products_per_second_by_hand(clock, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    clock[torch.float32] += [0.05, 0.02, 0.04, 0.03]
    clock[torch.bfloat16] += [0.05, 0.01, 0.03, 0.03]
    operations = 2 * 512 * 1024 * 1024
    for dtype, seconds in ((torch.bfloat16, 0.01 + 0.008), (torch.float32, 0.02 + 0.008)):
        expected = 3 * operations / seconds
        assert arithmetic.products_per_second(dtype) == pytest.approx(expected)


def test_what_is_timed_multiplies(monkeypatch):
    """The timed function makes the products that it stands for."""
    seen = []
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda positions, weight: seen.append((positions.shape, weight.shape, weight.dtype)),
    )
    arithmetic._multiplying(3, 5, 7, 2, torch.bfloat16)()
    assert seen == [((3, 5), (7, 5), torch.bfloat16)] * 2


# What else makes passes quick


def test_patches_lie_behind_each_other(monkeypatch):
    """The same features, which the tower reads in their own order."""
    tower = copy.deepcopy(builders.build("smolvlm").model.model.vision_model)
    pixels = torch.randn(2, 3, 32, 32)
    mask = torch.ones(2, 8, 8, dtype=torch.bool)
    before = tower.embeddings(pixels, mask)
    arithmetic.lay_out(tower)
    assert not tower.embeddings(pixels, mask).is_contiguous()  # a tiny model stays as it is
    monkeypatch.setattr(arithmetic, "TINY", 0)
    arithmetic.lay_out(tower)
    after = tower.embeddings(pixels, mask)
    assert after.is_contiguous() and torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
    "files, allowed",
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
    ids=["version 2", "2, no limit", "version 1", "1, no limit", "no groups"],
)
def test_processors_allowed(tmp_path, files, allowed):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert arithmetic.processors_allowed(tmp_path) == allowed


@pytest.mark.parametrize(
    "allowed, named, threads",
    [(1.5, False, 2), (0.5, False, 1), (1.5, True, None), (16, False, None), (None, False, None)],
)
def test_no_more_threads_than_processors_allowed(monkeypatch, allowed, named, threads):
    told = []
    monkeypatch.setattr(arithmetic, "processors_allowed", lambda: allowed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.delitem(os.environ, "OMP_NUM_THREADS", raising=False)
    if named:
        monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "16")
    arithmetic.limit_threads()
    assert told == ([] if threads is None else [threads])


class Batched(TorchDispatchMode):
    """Notes the shapes of the weights of batched products."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator in (torch.ops.aten.linear.default, torch.ops.aten.matmul.default):
            with self:  # which looks into it
                return operator.decompose(*args, **(kwargs or {}))
        if operator is torch.ops.aten.bmm.default:
            self.shapes.append(tuple(args[1].shape))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_never_multiplies_by_a_copied_head(tiny, image, dtype):
    """Neither the prompt's pass, of one or padded, nor one that records, nor a decode step."""
    model = copy.deepcopy(tiny.model).to(dtype)
    lvlm = dataclasses.replace(tiny, model=model)
    one, longer = (lvlm.encode(image, prompt) for prompt in ("a cat ?", "what is in the top ?"))
    expected = model(**one.inputs).logits[:, -1]
    with Batched() as seen:
        decoding = Decoding(lvlm, one.inputs)
        Decoding(lvlm, collate([one, longer], 0))
        record(lvlm, one.inputs)
    assert torch.allclose(decoding.logits, expected, atol=0.05)
    head = tuple(lvlm.model.get_output_embeddings().weight.T.shape)
    copied = [shape for shape in seen.shapes if shape[-2:] == head]
    assert bool(copied) == (dtype == torch.float32)  # there torch reads the head as it lies
