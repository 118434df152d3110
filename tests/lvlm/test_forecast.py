"""What an analysis would take, from a config alone: against numbers computed on paper."""

from types import SimpleNamespace

import pytest
import torch
from tiny import HIDDEN, LAYERS

from svl_core.lvlm import forecast

CPU = torch.device("cpu")
POSITIONS, SAMPLES = 100, 3
HEADS, SHARED_HEADS, HEAD_SIZE, INNER = 4, 2, 16, 128  # of the tiny decoder


@pytest.fixture(scope="module")
def made(tiny):
    """A forecast in float32 on a processor of 10 GFLOP/s whose memory reads 1 GB/s."""
    return forecast.forecast(
        "tiny",
        type(tiny.model),
        tiny.model.config,
        torch.float32,
        CPU,
        positions=POSITIONS,
        samples=SAMPLES,
        mlp=True,
        speeds=(10.0, 1e9),
    )


def test_parameters_are_those_of_the_model(made, tiny):
    layer = HIDDEN * HEAD_SIZE * (2 * HEADS + 2 * SHARED_HEADS) + 3 * HIDDEN * INNER + 2 * HIDDEN
    assert made.parameters["all"] == sum(p.numel() for p in tiny.model.parameters())
    assert made.parameters["layers"] == LAYERS * layer
    assert (made.layers, made.hidden_size) == (LAYERS, HIDDEN)


def test_memory_by_hand(made):
    hidden_states = 7 * 100 * 64 * 4
    cosines = 100 * 7 * 7 * 8
    attention_sums = 10 * 6 * 100 * 4
    mlp_outputs = 6 * 100 * 64 * 4
    of_a_sample = hidden_states + cosines + attention_sums + mlp_outputs
    assert made.memory["traces"] == 3 * of_a_sample == 1_188_000
    assert made.memory["key_value_cache"] == 2 * 6 * 100 * 2 * 16 * 4
    assert made.memory["weights"] == 4 * made.parameters["all"]
    assert made.memory["usual_maps"] == 6 * 4 * 100**2 * 4 + hidden_states


def test_seconds_by_hand(made):
    attention = 2 * 6 * 100**2 * 4 * 16
    rest = made.parameters["layers"] + made.parameters["vision_and_projector"]
    of_the_tower = 4 * 2 * 32 * 100 * 36  # 2 layers of width 32, 36 patches attend to each other
    one_pass = (attention + 2 * 100 * rest + of_the_tower) / 10e9
    assert made.seconds["one_pass"] == pytest.approx(one_pass)
    assert made.seconds["trace_one_sample"] == pytest.approx(one_pass + attention / 10e9)
    assert made.seconds["trace_all"] == pytest.approx(3 * made.seconds["trace_one_sample"])
    assert made.seconds["each_answer_token"] == pytest.approx(made.memory["weights"] / 1e9)


def test_positions_of_a_prompt_with_an_image():
    assert forecast.prompt_positions(SimpleNamespace(image_seq_length=576)) == 576 + 64
    assert forecast.prompt_positions(SimpleNamespace(mm_tokens_per_image=256)) == 256 + 64
    assert forecast.prompt_positions(SimpleNamespace()) == 2048


def test_steps_hold_no_more_heads_than_there_are():
    assert forecast.steps(CPU, 2, 64) == (128, 2)
    assert forecast.steps(CPU, 32, 4096)[0] == 256
    assert forecast.steps(torch.device("cuda"), 1000, 64) == (512, 512)


@pytest.mark.parametrize(
    "number, unit, text",
    [
        (12_345_678_901, "B", "12.3 GB"),
        (999, "B", "0.999 kB"),
        (0.012, "s", "12 ms"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
    ],
)
def test_readable(number, unit, text):
    assert forecast.readable(number, unit) == text
