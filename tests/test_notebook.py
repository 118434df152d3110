"""Values as a prompt and a notebook show them, and the example notebooks, whose cells run here."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import svl_core as svl
from svl_core import figures, notebook
from svl_core.comparison.evaluation import Evaluation, PairedEvaluation
from svl_core.figures.plot import Plot

FIRST_STEPS = Path(__file__).with_name("first_steps.ipynb")
ANSWERS = Path(__file__).with_name("where_answers_come_from.ipynb")
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def line(tiny, tiny_sample):
    """What each step of the line hands on."""
    trace = svl.trace(tiny, [tiny_sample], mlp=True)
    importance = svl.importance(trace)
    scores = svl.redundancy(trace, importance)
    plan = svl.plan(scores, 2)
    pruned = svl.prune(tiny, plan, compensation="scp", calibration=trace)
    report = svl.compare(tiny, pruned, tiny_sample, max_new_tokens=3)
    gap = svl.feature_gap(trace, plan.drop)
    asked = Evaluation("scenes", ("a", "b"), (True, False), ("what-at", "where"))
    return {
        "LVLM": pruned,
        "Sample": tiny_sample,
        "PatchGeometry": tiny_sample.geometry,
        "Trace": trace,
        "SampleTrace": trace.samples[0],
        "AttentionStatistics": trace.samples[0].attention,
        "TokenImportance": importance,
        "LayerScores": scores,
        "DropPlan": plan,
        "GapCurve": gap,
        "GapProjection": svl.pca_view(np.eye(3), np.eye(3)),
        "Answer": report.full,
        "Comparison": report,
        "Evaluation": asked,
        "PairedEvaluation": PairedEvaluation(asked, asked),
        "Recipe": svl.Recipe(drop=4, layers=None, targets=("mlp", "attention")),
        "Stability": svl.stability(svl.trace(tiny, [tiny_sample] * 2), drop=2, draws=3),
        "Plot": figures.gap_curve(gap.per_layer, plan.drop),
    }


def test_every_value_of_the_line_is_one_short_line(line):
    for name, value in line.items():
        told = repr(value)
        assert told.startswith(f"{name}(") and "\n" not in told and len(told) <= 320, told
        assert len(value._repr_html_()) <= 4_000, name


def test_what_is_told_is_so(line, tiny):
    assert repr(line["DropPlan"]) == "DropPlan(drop=(3, 4), num_layers=6, criterion='svl')"
    assert "samples=1" in repr(line["Trace"]) and "num_layers=6" in repr(line["Trace"])
    assert "layers=4" in repr(line["LVLM"]) and "layer_ids=(0, 1, 2, 5)" in repr(line["LVLM"])
    assert "layer_ids" not in repr(tiny)
    assert "features=float32[7, 47, 64]" in repr(line["SampleTrace"])
    assert repr(line["Recipe"]) == "Recipe(drop=4, targets=('mlp', 'attention'))"
    assert "accuracy=0.5" in repr(line["Evaluation"])
    ranking = [f'<th style="text-align:left">{layer}</th>' for layer in line["DropPlan"].drop]
    assert all(row in line["LayerScores"]._repr_html_() for row in ranking)


@pytest.mark.parametrize(
    "value, told",
    [
        ("x" * 61, f"'{'x' * 57}...'"),
        (1 / 3, "0.3333"),
        (None, "None"),
        (True, "True"),
        (np.zeros((2, 3), np.float32), "float32[2, 3]"),
        ((1,), "(1,)"),
        (range(20), "(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, ... 20 in all)"),
        ({"rank": 4}, "{rank: 4}"),
        ([np.zeros(2)] * 3, "3 of ndarray"),
        (Path("a"), "PosixPath"),
    ],
)
def test_values_are_told_shortly(value, told):
    assert notebook.short(value) == told


def test_what_a_model_says_is_no_markup(line):
    from dataclasses import replace

    answer = replace(line["Answer"], text="<script>alert(1)</script>")
    shown = answer._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_a_long_table_is_cut_and_says_so():
    kinds = tuple(f"kind {number:02}" for number in range(20))
    many = Evaluation("set", ("yes",) * 20, (True,) * 20, kinds)
    shown = many._repr_html_()
    assert "kind 15" in shown and "kind 16" not in shown and "and 4 more" in shown


def test_saving_twice_says_what_to_do(tiny, tmp_path):
    tiny.save(tmp_path / "out")
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(svl.InputError, match="choose another name, or delete that one first"):
        tiny.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


def run_cell(source: str, names: dict) -> object:
    """Runs a cell as a notebook would: gives the value of its last line, if that is one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def cells_of(notebook: Path) -> list[str]:
    """Its code, cell by cell."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in book["cells"])  # it is stored without them
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def checked_figures(values: list) -> list:
    """Those of the cells' values that are figures, each of which a notebook draws."""
    drawn = [value for value in values if isinstance(value, Plot)]
    for figure in drawn:
        bundle = figure._repr_mimebundle_()
        assert bundle[PLOTLY]["data"] and "Plot(" in bundle["text/plain"]
    return drawn


def test_the_example_notebook_runs_and_shows_what_it_made(tmp_path, monkeypatch, capsys):
    """All its code cells, in their order, and the last one once more."""
    monkeypatch.chdir(tmp_path)
    cells = cells_of(FIRST_STEPS)
    names: dict = {}
    values = [run_cell(cell, names) for cell in [*cells, cells[-1]]]
    assert len(checked_figures(values)) == 4
    report = values[cells.index(next(cell for cell in cells if "svl.compare" in cell))]
    assert report.full.text == "top left" and report.full.text in report._repr_html_()
    assert names["pruned"].num_layers == names["lvlm"].num_layers - 4
    said = capsys.readouterr().out
    assert said.startswith("pruned\n") and "delete that one first" in said


def test_the_notebook_of_answers_shows_both_models(tmp_path, monkeypatch, capsys):
    """Its code cells in their order: each figure is there, and shows the full model beside the
    pruned one where both have something to show.
    """
    monkeypatch.chdir(tmp_path)
    cells = cells_of(ANSWERS)
    names: dict = {}
    values = {cell: run_cell(cell, names) for cell in cells}
    plots = checked_figures(list(values.values()))
    pictures = [value for value in values.values() if isinstance(value, Image.Image)]
    assert len(plots) == 6 and len(pictures) == 4
    lvlm, pruned, said = names["lvlm"], names["pruned"], names["said"]
    assert values[cells[0]][0].text == "top left"
    assert pruned.num_layers == lvlm.num_layers - 6

    def of(call: str):
        return next(value for cell, value in values.items() if call in cell)

    words = len(said)
    both = 2 * words + 1  # columns, an empty one between the models
    cells_shown = of("figures.lens(").data[0]
    assert np.array(cells_shown.z).shape == (lvlm.num_layers, both)
    blank = np.isnan(np.array(cells_shown.z, float)[:, words + 1 :]).all(1)
    assert tuple(np.flatnonzero(blank)) == names["plan"].drop
    heights = np.array([bar.y for bar in of("figures.attention_split(").data])
    assert heights.shape == (4, lvlm.num_layers + pruned.num_layers)
    assert heights.sum(0) == pytest.approx(100, abs=1e-3)
    crosses = of("figures.decided_curve(").data[-1]
    assert tuple(crosses.x) == names["plan"].drop
    assert names["full_map"].logit == pytest.approx(logit_of(lvlm, names["sample"], said), abs=1e-4)
    assert "most relevant patches covered" in capsys.readouterr().out


def logit_of(lvlm, sample, said) -> float:
    """The first word's logit, by the model itself."""
    with torch.inference_mode():
        logits = lvlm.model(**sample.inputs).logits
    return float(logits[0, -1, said[0]])


def test_the_calls_that_the_guide_shows_draw_their_figures(line, tiny):
    """Each row of its table, on the values of the line."""
    guide = (Path(svl.__file__).parent / "GUIDE.md").read_text(encoding="utf-8")
    listed = guide.partition("## From Python and in a notebook")[2].partition("\n## ")[0]
    rows = [row for row in listed.splitlines() if row.startswith("| ") and "`figures." in row]
    calls = [call for row in rows for call in re.findall(r"`(figures\..+?\))`", row)]
    assert len(calls) == 14
    names = {"svl": svl, "figures": figures, "sample": line["Sample"], "trace": line["Trace"]}
    names |= {"lvlm": tiny, "scores": line["LayerScores"], "plan": line["DropPlan"]}
    for call in calls:
        drawn = eval(call, names | {"importance": line["TokenImportance"]})
        assert type(drawn).__name__ in ("Plot", "Image"), call
