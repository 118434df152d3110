"""The page's checkpoint: what is unzipped loads with plain transformers and answers as on the page;
a public page does not offer it.
"""

import html
import zipfile

import gradio as gr
import pytest
import torch
from updates import last, page_of

import svl_core as svl
from svl_core.service.limits import PUBLIC
from svl_core.ui import build
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.steps.share import checkpoint

SHORT = Settings(compensation="scp", max_new_tokens=4)


def test_the_zip_holds_the_pruned_model(page, analysed, tiny, tmp_path):
    from transformers import AutoModelForImageTextToText

    strip = {**analysed["strip"], "drop": [2, 3]}
    made = last(checkpoint.write(page, analysed["state"], strip, SHORT))
    with zipfile.ZipFile(made["packed"]) as packed:
        packed.extractall(tmp_path)
    name = checkpoint.name_of(page.workspace.models.first, ranked_by(strip), 2)
    folder = tmp_path / name
    assert (folder / "svl_plan.json").exists() and made["packed"].endswith(f"/{name}.zip")
    assert f"{name}.zip holds" in made["checkpoint-note"]
    assert html.escape(checkpoint.loading(name, images=True)) in made["checkpoint-note"]
    assert "transformers.AutoModelForImageTextToText" in checkpoint.loading(name, images=True)
    loaded = AutoModelForImageTextToText.from_pretrained(folder).eval()
    sample = tiny.encode(analysed["state"]["path"], analysed["state"]["prompt"])
    trace = svl.trace(tiny, [sample], mlp=True)
    pruned = svl.prune(tiny, svl.manual_plan([2, 3], 6, (0, 5)), "scp", trace)
    with torch.no_grad():
        assert torch.allclose(
            loaded(**sample.inputs).logits, pruned.model(**sample.inputs).logits, atol=1e-5
        )
    with pytest.raises(gr.Error, match="adds modules"):
        last(checkpoint.write(page, analysed["state"], strip, Settings(compensation="bridge")))


@pytest.mark.parametrize(
    ("model", "criterion", "expected"),
    [
        ("demo", "svl", "demo-svl-4"),
        ("owner/Model-2B", "greedy-kl", "Model-2B-greedy-kl-4"),
        ("/a folder/my model/", "manual", "my-model-manual-4"),
        ("/", "svl", "model-svl-4"),
    ],
)
def test_a_checkpoint_is_named_after_what_it_is(model, criterion, expected):
    assert checkpoint.name_of(model, criterion, 4) == expected


def test_only_where_it_is_allowed(tiny, analysed):
    closed = page_of(tiny, limits=PUBLIC)
    with pytest.raises(gr.Error, match="does not offer"):
        last(checkpoint.write(closed, analysed["state"], analysed["strip"], SHORT))
    offered = [
        block.visible
        for block in build(tiny, limits=PUBLIC).blocks.values()
        if getattr(block, "elem_id", None) == "checkpoint"
    ]
    assert offered == [False]
