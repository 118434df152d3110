"""The benchmark at real sizes: shapes against the released models' parameter counts, its meters
against work of known size, and all of it once on tiny models, so that it cannot rot. Nothing that
it measures is asserted.
"""

from argparse import Namespace

import numpy as np
import pytest
import real_size as sizes
import torch
from PIL import Image
from real_models import FULL, ONE, RELEASED, build, drawn, photograph, photograph_file

import svl_core as svl

CPU = torch.device("cpu")
OPTIONS = Namespace(tiny=True, device="cpu", dtype=None, cache=None, every_point=False)


@pytest.mark.parametrize(
    "name, parameters",
    [  # as their publishers count them
        ("smolvlm", 256_484_928),
        ("qwen2vl", 2_208_985_600),
        ("qwen2vl7b", 8_291_375_616),
        ("llava7b", 7_063_427_072),
    ],
)
def test_shapes_are_those_of_the_released_models(name, parameters):
    config, _ = RELEASED[name].make(RELEASED[name].shape, FULL)
    model = drawn(config, torch.device("meta"), torch.bfloat16)
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters


@pytest.mark.parametrize("detail, tiles", [(FULL, 13), (ONE, 1)])
def test_a_large_picture_is_cut_as_the_released_processor_does(detail, tiles):
    _, processor = RELEASED["smolvlm"].make(RELEASED["smolvlm"].shape, detail)
    picture = Image.new("RGB", (800, 600))  # any of 4:3
    inputs = processor(images=[[picture]], text=["<image>"], return_tensors="pt")
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert inputs["pixel_values"].shape == (1, tiles, 3, 512, 512)
    assert int((inputs["input_ids"] == image).sum()) == 64 * tiles


def test_the_picture_is_no_flat_one_and_the_same_for_a_seed():
    picture = np.asarray(photograph(80, 60, 1), np.float32)
    assert np.array_equal(picture, np.asarray(photograph(80, 60, 1), np.float32))
    assert not np.array_equal(picture, np.asarray(photograph(80, 60, 2), np.float32))
    assert picture.shape == (60, 80, 3) and picture.std(axis=(0, 1)).min() > 10


def test_passes_of_the_tower_count_in_pruned_views_too():
    lvlm = build("smolvlm", ONE, CPU, torch.float32, tiny=True)
    sample = lvlm.encode(photograph(80, 60, 1), "what ?")
    tower = lvlm.model.model.vision_model
    meter = sizes.Meter(CPU, type(tower), sample.inputs["pixel_values"].numel())
    view = svl.pruned_view(lvlm, [0, 2, 5])
    try:
        with torch.inference_mode():
            one = meter.spent(lambda: lvlm.model(**sample.inputs))
            two = meter.spent(lambda: [view.model(**sample.inputs) for _ in range(2)])
            none = meter.spent(lambda: lvlm.model(input_ids=sample.inputs["input_ids"]))
    finally:
        meter.close()
    assert (one.passes, two.passes, none.passes) == (1, 2, 0)


def test_held_bytes_counts_each_thing_once():
    sizes.held_bytes()  # lets go of what only waits to be collected
    before = sizes.held_bytes()
    tensor = torch.zeros(1000, 25)  # float32
    held = [tensor, tensor[10:], tensor.numpy(), np.zeros(5000), Image.new("RGB", (30, 20))]
    added = sizes.held_bytes() - before  # others may let go of a few bytes meanwhile
    assert added == pytest.approx(100_000 + 40_000 + 1_800, abs=500)
    del held


def test_what_one_prompt_leaves_behind_by_hand():
    lvlm = build("smolvlm", ONE, CPU, torch.float32, tiny=True)
    states, caches, features = 13 * 20 * 64, 2 * 12 * 20 * 2 * 16, 4 * 64
    assert sizes.left_behind(lvlm, 20, 4) == 4 * (states + caches + features)


def test_a_map_of_one_layer_has_one_point():
    lvlm = build("smolvlm", ONE, CPU, torch.float32, tiny=True)
    one = sizes.OneLayer(lvlm.model, lvlm.processor, lvlm.family, lvlm.name, layer=3)
    sample = lvlm.encode(photograph(80, 60, 1), "what ?")
    whole = sizes.ablate(lvlm, [sample], sizes=(1,), max_new_tokens=2)
    alone = sizes.ablate(one, [sample], sizes=(1,), max_new_tokens=2)
    assert [row.layers for row in alone.rows] == [(3,)]
    assert alone.rows[0].kl == whole.rows[3].kl


def test_every_step_once():
    name = "smolvlm"
    run = sizes.measure(name, FULL, sizes.PARTS, OPTIONS)
    assert run["positions"] > run["visual"] > 0
    assert run["first"]["vision_passes"] >= 1  # a new picture is read, whatever is kept later
    assert run["memory"]["analysed"] >= 1  # hidden states at least are kept
    assert run["sweep"]["points"] == 8 and run["ablation"]["points"] == run["layers"]
    made = {"before": {"commit": "0000000", "runs": {"a": run}}}
    cells = [line.split("|")[2].strip() for line in sizes.table(made).splitlines() if "|" in line]
    assert "-" not in cells and RELEASED[name].title in cells[0]


@pytest.mark.parametrize("name", ["onevision", "qwen2vl", "qwen2vl7b", "llava7b"])
def test_every_model_answers_the_plain_way_and_the_page_reads_it_alike(name, tmp_path):
    lvlm = build(name, ONE, CPU, torch.float32, tiny=True)
    path = photograph_file(tmp_path, 120, 90, 1)
    inputs = sizes.plain_inputs(lvlm, path, sizes.QUESTIONS[0])
    sizes.plain_answer(lvlm, inputs)
    sample = lvlm.encode(str(path), sizes.QUESTIONS[0])
    assert sample.inputs.keys() == inputs.keys()
    assert all(torch.equal(sample.inputs[name], value) for name, value in inputs.items())


def test_weights_are_read_again_where_they_were_written(tmp_path):
    made = [build("smolvlm", ONE, CPU, torch.bfloat16, True, tmp_path) for _ in range(2)]
    drawn, read = (dict(lvlm.model.named_parameters()) for lvlm in made)
    assert drawn.keys() == read.keys()
    assert all(torch.equal(drawn[name], tensor) for name, tensor in read.items())


def test_a_part_that_was_not_measured_is_a_dash():
    run = {"model": "A", "detail": ONE, "device": "cuda", "dtype": "bfloat16"}
    table = sizes.table({"after": {"commit": "0000000", "runs": {"a": run}}})
    assert "## After (commit 0000000)" in table and table.count("| - |") == 9
