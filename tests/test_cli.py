"""The `svl` command on a tiny model in a folder: JSON keys, exit codes, one line of error, a fast
--help.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import builders
import pytest
import torch
from tiny import picture
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from svl_core.cli.main import main
from svl_core.cli.parser import COMMANDS
from svl_core.comparison.presets import PRESETS
from svl_core.lvlm import hub
from svl_core.progress import ALONE


@pytest.fixture(scope="module")
def world(tiny, image, tmp_path_factory):
    """A folder with the tiny model, images, questions and a calibration set."""
    folder = tmp_path_factory.mktemp("world")
    tiny.save(folder / "model")
    text = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=5,
            num_attention_heads=2,
            vocab_size=len(tiny.tokenizer),
            max_position_embeddings=64,
        )
    )
    text.save_pretrained(folder / "text")
    tiny.tokenizer.save_pretrained(folder / "text")
    image.save(folder / "a.png")
    image.rotate(180).save(folder / "b.png")
    (folder / "calibration").mkdir()
    for name in "xyz":
        image.rotate(ord(name)).save(folder / "calibration" / f"{name}.png")
    rows = [
        {"image": "a.png", "question": "what is in the top left ?", "answer": "cat", "kind": "k"},
        {"image": "b.png", "question": "a cat", "answer": "no", "kind": "l"},
    ] * 2
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def svl(world, capsys, monkeypatch):
    """Runs a command line in the world's folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(world)

    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return run


ASK = ("--model", "model", "--image", "a.png", "--prompt", "what is in the top left ?")
SET = ("--calibration", "calibration")


def result(done):
    code, out, err = done
    assert code == 0, err
    return json.loads(out, parse_constant=pytest.fail)


def test_analyze(svl, tiny_sample):
    found = result(svl("analyze", *ASK, "--json", "-"))
    assert found["layers"] == 6 and found["visual_tokens"] == 36 and found["grid"] == [6, 6]
    assert found["visual_tokens"] + found["text_tokens"] == tiny_sample.length
    assert {"svl", "svl-all", "shortgpt"} <= set(found["redundancy"]) and all(
        len(v) == 6 for v in found["redundancy"].values()
    )
    assert sorted(found["ranking"]) == [1, 2, 3, 4]
    assert len(found["similarity"]) == 7 and all(len(row) == 7 for row in found["similarity"])
    assert (
        len(found["importance"]["visual"]) == 36
        and len(found["importance"]["text"]) == found["text_tokens"]
    )
    corrected = found["corrected_for_position"]
    assert len(corrected["visual"]) == 36 and abs(sum(corrected["visual"])) < 0.01
    assert corrected["without"].startswith("what the attention mask alone gives")
    assert found["timing_ms"] > 0 and found["calibration"] == {"set": "this", "samples": 1}


def test_lens(svl, tiny, tiny_sample):
    """Both models are asked about the full model's words; a dropped layer has no row."""
    from svl_core.analysis.lens import lens

    drop = ("--layers", "2,3", "--compensation", "none", "--max-new-tokens", "3")
    found = result(svl("lens", *ASK, *SET, *drop, "--top", "2", "--json", "-"))
    full, pruned = found["full"], found["pruned"]
    expected = lens(tiny, tiny_sample, full["token_ids"], top=2)
    assert full["rank"] == expected.rank.tolist() and len(full["tokens"]) == 3
    assert full["decided"] == list(expected.decided)
    assert full["words"][5][0][0] == full["tokens"][0]
    assert pruned["layer_ids"] == [0, 1, 4, 5] and pruned["token_ids"] == full["token_ids"]
    assert found["plan"]["drop"] == [2, 3] and "decided_share" not in found


def test_lens_for_people_and_over_a_set(svl):
    set_of_three = ("--measure", "calibration", "--measure-size", "3")
    ask = ("lens", *ASK, *SET, "--layers", "2", "--compensation", "none", *set_of_three)
    code, out, err = svl(*ask)
    assert code == 0 and err == "", err
    assert "the full model's answers to 3 questions" in out and "decided" in out
    share = result(svl(*ask, "--json", "-"))["decided_share"]
    assert share["full"]["answers"][-1] == 1 and share["samples"] == 3
    assert share["pruned"]["layer_ids"] == [0, 1, 3, 4, 5]
    code, out, err = svl("lens", *ASK, "--top", "0")
    assert code == 2 and "Found 0 words a place; expected at least 1; raise it." in err


def test_fewer_visual_tokens(svl, tmp_path):
    """The same question in three sizes; one-size models answer as ever."""
    builders.build("smolvlm").save(tmp_path / "model")
    picture(240, 161).save(tmp_path / "a.png")
    ask = ("analyze", "--model", tmp_path / "model", "--image", tmp_path / "a.png", "--prompt", "a")

    def tokens(*options):
        found = result(svl(*ask, *options, "--json", "-"))
        return found["visual_tokens"], found["detail"]

    assert tokens() == tokens("--detail", "full") == (7 * 16, "full")
    assert tokens("--detail", "balanced") == (5 * 16, "balanced")
    assert tokens("--detail", "quick") == (16, "quick")
    assert tokens("--max-visual-tokens", "90") == (5 * 16, "full")
    assert tokens("--detail", "auto") == (7 * 16, "full")  # so small that a pass is short anyway
    code, out, err = svl(*ask, "--max-visual-tokens", "15")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "a limit of 15 visual tokens; expected at least 16" in err
    assert "(quick detail)" in svl(*ask, "--detail", "quick")[1]
    for options, positions, patches in (((), 112, 7 * 64), (("--detail", "quick"), 16, 64)):
        plan = result(svl(*ask, *options, "--plan", "--json", "-"))["plan"]
        assert (plan["positions"], plan["patches"]) == (positions + 64, patches)
    plain = result(svl("analyze", *ASK, "--detail", "quick", "--json", "-"))
    assert plain["visual_tokens"] == 36


def test_the_detail_that_keeps_a_pass_short_is_told(svl, tmp_path, monkeypatch):
    from svl_core.lvlm import detail

    builders.build("smolvlm").save(tmp_path / "model")
    picture(240, 161).save(tmp_path / "a.png")
    monkeypatch.setattr(detail, "FEW_SECONDS", 0.0)
    ask = ("--model", tmp_path / "model", "--image", tmp_path / "a.png", "--prompt", "a")
    code, out, err = svl("analyze", *ask, "--detail", "auto")
    assert code == 0 and "16 visual (4 x 4)" in out
    assert "At full detail one pass would take about a second on this processor, at quick" in out
    plan = result(svl("compare", *ask, "--drop", "1", "--detail", "auto", "--json", "-"))["plan"]
    assert plan["recipe"]["detail"] == "quick"  # what it came to


def test_analyze_for_people_and_by_a_calibration_set(svl):
    code, out, err = svl("analyze", *ASK, *SET, "--criterion", "random", "--seed", "4")
    assert (
        code == 0
        and err == ""
        and "6 decoder layers" in out
        and "random" in out
        and "protected" in out
    )


def test_analyze_ranks_halves_beside_layers(svl, world):
    whole = result(svl("analyze", *ASK, "--json", "-"))
    ask = ("analyze", *ASK, "--granularity", "half")
    found = result(svl(*ask, "--json", "-"))
    assert found["redundancy"] == whole["redundancy"] and "halves" not in whole
    halves = found["halves"]
    assert len(halves["redundancy"]) == 12 and set(halves["protected"]) == {0, 1, 10, 11}
    scores = halves["redundancy"]
    by_score = sorted(range(2, 10), key=lambda half: -scores[half])
    assert halves["ranking"] == by_score
    _, out, _ = svl(*ask)
    assert "3 attention" in out and "3 mlp" in out
    code, _, err = svl(*ask, "--criterion", "angular")
    assert code == 2 and "halves" in err and err.count("\n") == 1


def test_a_calibration_set_in_files_gives_the_same(svl, tmp_path):
    ask = ("analyze", *ASK, *SET, "--stability", "2", "--json", "-")
    held, filed = result(svl(*ask)), result(svl(*ask, "--spool", tmp_path))
    assert {**held, "timing_ms": 0} == {**filed, "timing_ms": 0} and not list(tmp_path.iterdir())
    code, out, err = svl(
        "prune",
        "--model",
        "model",
        "--drop",
        "2",
        *SET,
        "--out",
        tmp_path / "out",
        "--spool",
        tmp_path / "absent",
    )
    assert code == 2 and "no room" in err and not (tmp_path / "out").exists()


def test_plain_answers(svl, world):
    """They are the model's without its generation settings; else these are followed."""
    steered = world / "steered"
    shutil.copytree(world / "model", steered)
    file = steered / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "repetition_penalty": 1.7}), encoding="utf-8")
    asked = ("--image", "a.png", "--prompt", "a cat", "--drop", "1", "--criterion", "shortgpt")
    asked = (*asked, "--calibration", "this", "--max-new-tokens", "8", "--json", "-")
    texts = [
        result(svl("compare", "--model", folder, *asked, *options))["full"]["text"]
        for folder, options in (("model", ()), ("steered", ()), ("steered", ("--plain",)))
    ]
    assert texts[2] == texts[0] != texts[1]
    code, _, err = svl("analyze", *ASK, "--plain")
    assert code == 2 and "Found '--plain', which is no option here" in err


@pytest.mark.parametrize("compensation", ["none", "scp", "lstsq"])
def test_compare(svl, compensation, tmp_path):
    file = tmp_path / "out.json"
    code, out, err = svl(
        "compare",
        *ASK,
        *SET,
        "--drop",
        "2",
        "--compensation",
        compensation,
        "--max-new-tokens",
        "4",
        "--json",
        file,
    )
    assert code == 0 and "top-1 agreement" in out, err
    found = json.loads(file.read_text())
    assert len(found["plan"]["drop"]) == 2 and len(found["plan"]["keep"]) == 4
    assert (found["plan"]["criterion"], found["plan"]["compensation"]) == ("svl", compensation)
    assert {"text", "tokens", "ms_prefill", "ms_per_token"} <= set(found["full"]) & set(
        found["pruned"]
    )
    assert (
        found["kl"] >= 0
        and 0 <= found["agreement"] <= 1
        and found["parameters"]["full"] > found["parameters"]["pruned"]
    )
    speedup = found["speedup"]
    assert speedup["prefill"] > 0 and set(speedup) == {"prefill", "decode", "expected", "noise"}
    assert 1 < speedup["expected"]["prefill"] < 1.5 > speedup["expected"]["decode"] > 1
    assert speedup["noise"]["decode"].startswith("only 3 tokens")
    assert "each token is noise: only 3 tokens after the first" in out
    assert f"{speedup['expected']['decode']:.2f}x" in out
    assert found["plan"]["calibration"] == {
        "set": "calibration",
        "samples": 3,
    }


def test_dropping_nothing_changes_nothing(svl):
    found = result(svl("compare", *ASK, "--drop", "0", "--max-new-tokens", "4", "--json", "-"))
    assert (
        found["kl"] == 0
        and found["agreement"] == 1
        and found["first_divergence"] is None
        and found["plan"]["drop"] == []
    )


def test_layers_by_hand_and_this_sample(svl):
    found = result(
        svl(
            "compare",
            *ASK,
            "--layers",
            "1,3-4",
            "--compensation",
            "scp",
            "--calibration",
            "this",
            "--max-new-tokens",
            "2",
            "--json",
            "-",
        )
    )
    assert (
        found["plan"]["drop"] == [1, 3, 4]
        and found["plan"]["criterion"] == "manual"
        and found["plan"]["calibration"]["set"] == "this"
    )
    code, out, _ = svl(
        "compare", *ASK, "--drop", "1", "--calibration", "this", "--max-new-tokens", "2"
    )
    assert code == 0 and "the very sample asked about" in out


def test_the_bundled_calibration_set(svl):
    found = result(
        svl(
            "compare",
            *ASK,
            "--drop",
            "1",
            "--calibration",
            "demo",
            "--calibration-size",
            "2",
            "--max-new-tokens",
            "2",
            "--json",
            "-",
        )
    )
    assert found["plan"]["calibration"] == {"set": "demo", "samples": 2}


def test_evaluate(svl):
    found = result(
        svl(
            "evaluate",
            "--model",
            "model",
            "--data",
            "q.jsonl",
            "--max-new-tokens",
            "3",
            "--json",
            "-",
        )
    )
    assert found["n"] == 4 and set(found["by_kind"]) == {"k", "l"} and "accuracy_kept" not in found
    found = result(
        svl(
            "evaluate",
            "--model",
            "model",
            "--data",
            "q.jsonl",
            "--limit",
            "2",
            "--drop",
            "1",
            *SET,
            "--max-new-tokens",
            "3",
            "--json",
            "-",
        )
    )
    assert found["n"] == 2 and "accuracy_kept" in found and len(found["plan"]["drop"]) == 1
    code, out, _ = svl(
        "evaluate",
        "--model",
        "model",
        "--limit",
        "3",
        "--drop",
        "1",
        *SET,
        "--max-new-tokens",
        "2",
        "--quiet",
    )
    assert code == 0 and "scenes: 3 questions" in out


def test_prune_writes_a_plain_checkpoint(svl, world, tiny_sample, tmp_path):
    found = result(
        svl(
            "prune",
            "--model",
            "model",
            "--drop",
            "2",
            "--compensation",
            "scp",
            *SET,
            "--out",
            tmp_path / "p",
            "--json",
            "-",
        )
    )
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from svl_core.lvlm.loading import load

    model, processor = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / "p"),
        AutoProcessor.from_pretrained(tmp_path / "p"),
    )
    assert model.config.text_config.num_hidden_layers == 4 and processor.tokenizer is not None
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(**tiny_sample.inputs).logits,
            load(tmp_path / "p").model(**tiny_sample.inputs).logits,
            atol=0,
            rtol=0,
        )
    assert (
        json.loads((tmp_path / "p" / "svl_plan.json").read_text())["layer_ids"]
        == found["plan"]["keep"]
    )
    code, _, err = svl("prune", "--model", "model", "--drop", "2", *SET, "--out", tmp_path / "p")
    assert code == 2 and "--out" in err


def test_a_pruned_model_goes_to_the_hub(svl, tmp_path, monkeypatch):
    """Asked first whether it may, handed the folder with its figures last, and named."""
    calls = []

    class Hub:
        def whoami(self):
            calls.append("whoami")
            return {"name": "me"}

        def create_repo(self, repository, *, private, exist_ok):
            return f"https://hub/{repository}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append((tmp_path / "p" / "README.md").read_text(encoding="utf-8"))
            assert folder_path == str(tmp_path / "p")

    monkeypatch.setattr(hub, "hub_api", Hub)
    plan = ("--model", "model", "--layers", "2", "--compensation", "none")
    svl("evaluate", *plan, "--data", "q.jsonl", "--json", tmp_path / "found.json")
    options = ("--figures", tmp_path / "found.json", "--push-to-hub", "me/tiny")
    found = result(svl("prune", *plan, "--out", tmp_path / "p", *options, "--json", "-"))
    assert found["hub"] == "https://hub/me/tiny" and found["out"] == str(tmp_path / "p")
    asked, card = calls
    assert asked == "whoami" and "| exact answers, q.jsonl, 4 questions |" in card
    code, _, err = svl("prune", "--model", "model", "--layers", "3", *options)
    assert code == 2 and "without layers [2]" in err and calls[2:] == ["whoami", "whoami"]


def test_a_plan_made_before_is_made_again(svl, tmp_path):
    """From a command's result, a checkpoint's record and the page: same layers, same weights."""
    made = (
        "--compensation",
        "scp",
        "--rank",
        "2",
        "--strength",
        "0.5",
        "--top-p",
        "0.7",
        "--targets",
        "mlp,attention",
        *SET,
    )
    first = result(
        svl(
            "prune",
            "--model",
            "model",
            "--drop",
            "2",
            *made,
            "--out",
            tmp_path / "a",
            "--json",
            "-",
        )
    )
    (tmp_path / "result.json").write_text(json.dumps(first))
    page = {
        "model": "model",
        "drop": first["plan"]["drop"],
        "keep": first["plan"]["keep"],
        "criterion": "svl",
        "visual_share": 1.0,
        "settings": {
            "compensation": "scp",
            "rank": 2,
            "strength": 0.5,
            "top_p": 0.7,
            "mode": "fraction",
            "attention_target": True,
            "layer": 3,
            "calibration": "own",
            "text_self": "received",
            "causal_correction": False,
        },
    }
    (tmp_path / "plan.json").write_text(json.dumps(page))
    weights = (tmp_path / "a" / "model.safetensors").read_bytes()
    for number, file in enumerate(
        (tmp_path / "result.json", tmp_path / "plan.json", tmp_path / "a" / "svl_plan.json")
    ):
        again = result(
            svl(
                "prune",
                "--model",
                "model",
                "--from",
                file,
                *SET,
                "--out",
                tmp_path / str(number),
                "--json",
                "-",
            )
        )
        assert (
            again["plan"]["drop"] == first["plan"]["drop"]
            and again["plan"]["compensation"] == "scp"
        )
        assert (tmp_path / str(number) / "model.safetensors").read_bytes() == weights, file
    page["settings"]["visual_share"] = 0.5
    (tmp_path / "plan.json").write_text(json.dumps(page))
    code, out, err = svl(
        "prune",
        "--model",
        "model",
        "--from",
        tmp_path / "plan.json",
        *SET,
        "--out",
        tmp_path / "thin",
    )
    assert (
        code == 0
        and "50% of the visual tokens, which a checkpoint cannot hold" in out
        and (tmp_path / "thin" / "model.safetensors").read_bytes() == weights
    )
    page |= {"drop": [], "keep": list(range(6))}
    page["settings"]["visual_share"] = 1.0
    (tmp_path / "plan.json").write_text(json.dumps(page))
    assert (
        result(
            svl(
                "compare",
                *ASK,
                "--from",
                tmp_path / "plan.json",
                "--max-new-tokens",
                "2",
                "--json",
                "-",
            )
        )["kl"]
        == 0
    )


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot be read"),
        ("no JSON", "no plan"),
        ("[1]", "no plan"),
        ('{"drop": [1]}', "no plan"),
        ('{"drop": ["x"], "keep": [], "settings": {"compensation": "none"}}', "no plan"),
        (
            '{"drop": [1], "keep": [], "settings": {"compensation": "none", "top_p": "much"}}',
            "no plan",
        ),
        (
            '{"drop": [1], "keep": [], "settings": {"compensation": "none"}, "model": "other"}',
            "--model other",
        ),
        ('{"drop": [9], "keep": [], "settings": {"compensation": "none"}}', "layer"),
        ('{"drop": [1], "keep": [], "settings": {"compensation": "magic"}}', "magic"),
    ],
)
def test_a_file_that_holds_no_plan_for_this_model_is_refused(svl, tmp_path, text, said):
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    code, out, err = svl("compare", *ASK, "--from", tmp_path / "plan.json")
    assert code == 2 and said in err and err.count("\n") == 1 and not out


def test_text_only_and_a_prompt_without_image(svl, tmp_path):
    """A plain causal language model is analysed, compared and pruned; so is a vision-language model
    asked without an image.
    """
    for model in ("text", "model"):
        found = result(
            svl("analyze", "--model", model, "--prompt", "what is in the top left ?", "--json", "-")
        )
        assert (
            found["visual_tokens"] == 0
            and found["grid"] is None
            and found["importance"]["visual"] == []
            and len(found["importance"]["text"]) == found["text_tokens"]
        )
    assert all(score is None for score in found["redundancy"]["svl-visual"]) and all(
        found["redundancy"]["svl"]
    )
    found = result(
        svl(
            "compare",
            "--model",
            "text",
            "--prompt",
            "a cat",
            "--drop",
            "1",
            "--compensation",
            "lstsq",
            "--calibration",
            "demo",
            "--max-new-tokens",
            "2",
            "--json",
            "-",
        )
    )
    assert found["plan"]["calibration"]["set"] == "demo" and found["kl"] > 0
    scenes = ("--calibration", "demo")
    out = tmp_path / "p"
    found = result(
        svl("prune", "--model", "text", "--drop", "2", *scenes, "--out", out, "--json", "-")
    )
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "p", output_loading_info=True)
    assert (
        model.config.num_hidden_layers == 3
        and not report["missing_keys"]
        and not report["unexpected_keys"]
    )


def test_sweep(svl, tmp_path):
    options = (
        *SET,
        "--drop",
        "0-1,3",
        "--criterion",
        "svl,random",
        "--draws",
        "2",
        "--max-new-tokens",
        "2",
        "--csv",
        tmp_path / "s.csv",
        "--resume",
        tmp_path / "r.json",
    )
    found = result(svl("sweep", *ASK, *options, "--compensation", "none,scp", "--json", "-"))
    assert [(r["criterion"], r["compensation"], r["drop"]) for r in found["rows"]] == [
        (c, k, d) for c in ("svl", "random") for k in ("none", "scp") for d in (0, 1, 3)
    ]
    assert (
        len((tmp_path / "s.csv").read_text().splitlines()) == 13 and (tmp_path / "r.json").exists()
    )
    code, _, err = svl("sweep", *ASK, *options, "--compensation", "none,scp", "--causal-correction")
    assert code == 2 and "other settings" in err  # rows ranked on other tokens
    code, out, err = svl(
        "sweep",
        "--model",
        "model",
        *SET,
        "--measure",
        "q.jsonl",
        "--data",
        "q.jsonl",
        "--drop",
        "2",
        "--max-new-tokens",
        "2",
    )
    assert code == 0 and "accuracy" in out and "cliff" in out, err


def test_ablate(svl):
    found = result(svl("ablate", *ASK, "--sizes", "1-2", "--max-new-tokens", "2", "--json", "-"))
    assert (
        len(found["rows"]) == 6 + 5
        and found["n"] == 1
        and len(found["rows"][0]["token_losses"]) == 1
    )
    found = result(
        svl(
            "ablate",
            "--model",
            "model",
            "--data",
            "q.jsonl",
            "--sizes",
            "1",
            "--max-new-tokens",
            "2",
            "--json",
            "-",
        )
    )
    assert found["kinds"] == ["k", "l"] and set(found["rows"][0]["by_kind"]) == {"k", "l"}
    code, out, _ = svl(
        "ablate",
        "--model",
        "model",
        "--measure",
        "calibration",
        "--sizes",
        "1",
        "--max-new-tokens",
        "2",
    )
    assert code == 0 and "n = 3" in out


def test_models(svl):
    found = result(svl("models", "--json", "-"))
    assert {c["name"] for c in found["criteria"]} >= {"svl", "shortgpt", "random"} and {
        c["name"] for c in found["compensations"]
    } >= {"none", "scp", "lstsq"}
    assert found["models"] and found["families"]
    code, out, _ = svl("models")
    assert code == 0 and "shortgpt" in out


def test_a_model_is_probed(svl):
    found = result(svl("models", "--probe", "model", "--json", "-"))
    assert (found["family"], found["layers"], found["visual"]) == ("LLaVA", 6, 36)
    assert found["refused"] is None and found["edits"]["mlp"]["maps"] == ["mlp.down_proj"]
    code, out, _ = svl("models", "--probe", "text")
    assert code == 0 and "none: it takes no images" in out
    code, out, err = svl("models", "--probe", "calibration")
    assert code == 2 and not out and "without config.json" in err


@pytest.fixture(scope="module")
def broken(world):
    (world / "corrupt.png").write_bytes((world / "a.png").read_bytes()[:300])
    (world / "text.png").write_text("not an image")
    (world / "bad.jsonl").write_text(
        '{"image": "a.png", "question": "q", "answer": "a"}\n{"image": "a.png"}\n'
    )
    (world / "empty.jsonl").write_text("\n")
    (world / "empty").mkdir()
    return world


ASKED = ("--image", "a.png", "--prompt", "what")
PRUNE = ("compare", "--model", "model", *ASKED, *SET)
WRONG = {
    "no command": ((), "expected one of analyze"),
    "unknown command": (("analyse",), "analyze"),
    "unknown option": (("analyze", *ASK, "--dorp", "2"), "--dorp"),
    "no image": (("analyze", "--prompt", "what"), "--image"),
    "image for a text-only model": (
        ("analyze", "--model", "text", "--image", "a.png", "--prompt", "what"),
        "without image input",
    ),
    "empty prompt alone": (("analyze", "--model", "text", "--prompt", " "), "empty prompt"),
    "images to calibrate a text-only model on": (
        ("compare", "--model", "text", "--prompt", "what", "--drop", "1", *SET),
        "a text-only model",
    ),
    "missing image": (
        ("analyze", "--model", "model", "--image", "none.png", "--prompt", "what"),
        "none.png",
    ),
    "corrupt image": (
        ("analyze", "--model", "model", "--image", "corrupt.png", "--prompt", "what"),
        "corrupt",
    ),
    "not an image": (
        ("analyze", "--model", "model", "--image", "text.png", "--prompt", "what"),
        "not a readable image",
    ),
    "empty prompt": (
        ("analyze", "--model", "model", "--image", "a.png", "--prompt", "  "),
        "empty prompt",
    ),
    "long prompt": (
        ("analyze", "--model", "model", "--image", "a.png", "--prompt", "what " * 400),
        "shorten",
    ),
    "unknown folder": (("analyze", "--model", "./none", *ASKED), "none"),
    "folder without model": (("analyze", "--model", "empty", *ASKED), "config.json"),
    "unknown criterion": (("analyze", *ASK, "--criterion", "svk"), "svl, svl-all"),
    "unknown compensation": ((*PRUNE, "--drop", "1", "--compensation", "glue"), "none, scp"),
    "too many dropped": ((*PRUNE, "--drop", "5"), "0 to 4"),
    "no rank": ((*PRUNE, "--drop", "1", "--rank", "0"), "from 1"),
    "layers ranked by nothing": ((*PRUNE, "--drop", "1", "--criterion", "manual"), "--layers"),
    "negative drop": ((*PRUNE, "--drop", "-1"), "0 to 4"),
    "drop no number": (
        (*PRUNE, "--drop", "two"),
        "Found 'two' for --drop; expected a whole number",
    ),
    "nothing to drop": (PRUNE, "--drop"),
    "both ways to drop": (
        (*PRUNE, "--drop", "1", "--layers", "2"),
        "Found both --layers and --drop",
    ),
    "layers no numbers": ((*PRUNE, "--layers", "1,b"), "3,5-7"),
    "layers out of range": ((*PRUNE, "--layers", "9"), "from 0 to 5"),
    "all layers": ((*PRUNE, "--layers", "0-5"), "at least one"),
    "top-p": (("analyze", *ASK, "--top-p", "1.5"), "top-p of 1.5"),
    "text-self": (("analyze", *ASK, "--text-self", "both"), "received"),
    "targets": (
        (*PRUNE, "--drop", "1", "--compensation", "scp", "--targets", "head"),
        "mlp, attention",
    ),
    "calibration folder empty": (
        ("compare", "--model", "model", *ASKED, "--calibration", "empty", "--drop", "1"),
        "Found nothing in empty",
    ),
    "calibration missing": (
        ("compare", "--model", "model", *ASKED, "--calibration", "none", "--drop", "1"),
        "no file none",
    ),
    "calibration size": (
        (*PRUNE, "--drop", "1", "--calibration-size", "0"),
        "calibration size of 0",
    ),
    "calibration is this for many": (
        (
            "evaluate",
            "--model",
            "model",
            "--data",
            "q.jsonl",
            "--drop",
            "1",
            "--calibration",
            "this",
        ),
        "expected a set",
    ),
    "bad line": (("evaluate", "--model", "model", "--data", "bad.jsonl"), "line 2 of bad.jsonl"),
    "no questions": (("evaluate", "--model", "model", "--data", "empty.jsonl"), "no questions"),
    "unknown data": (("evaluate", "--model", "model", "--data", "mme"), "scenes"),
    "missing data": (
        ("evaluate", "--model", "model", "--data", "none.jsonl"),
        "no file none.jsonl",
    ),
    "limit": (("evaluate", "--model", "model", "--data", "q.jsonl", "--limit", "0"), "at least 1"),
    "answer length": ((*PRUNE, "--drop", "1", "--max-new-tokens", "0"), "at least 1"),
    "json folder": (("analyze", *ASK, "--json", "none/x.json"), "none/x.json"),
    "json is a folder": (("analyze", *ASK, "--json", "empty"), "a folder at empty"),
    "device": (("analyze", *ASK, "--device", "abacus"), "abacus"),
    "dtype": (("analyze", *ASK, "--dtype", "int3"), "int3"),
    "not exportable": (
        (
            "prune",
            "--model",
            "model",
            "--drop",
            "1",
            "--compensation",
            "bridge",
            *SET,
            "--out",
            "o",
        ),
        "plain checkpoint",
    ),
    "device map": (("analyze", *ASK, "--device-map", "sideways"), "auto, balanced"),
    "out that cannot be": (
        ("prune", "--model", "model", "--drop", "1", *SET, "--out", "/proc/none/out"),
        "--out" if os.geteuid() else "cannot be written",
    ),
    "no place": (("prune", "--model", "model", "--drop", "1", *SET), "no --out"),
    "place on the Hub": (
        ("prune", "--model", "model", "--drop", "1", *SET, "--push-to-hub", "a/b/c"),
        "expected USER/NAME",
    ),
    "private without the Hub": (
        ("prune", "--model", "model", "--drop", "1", *SET, "--out", "o", "--private"),
        "--private without --push-to-hub",
    ),
    "figures that are not there": (
        ("prune", "--model", "model", "--drop", "1", *SET, "--out", "o", "--figures", "none"),
        "check --figures",
    ),
    "figures that are none": (
        ("prune", "--model", "model", "--drop", "1", *SET, "--out", "o", "--figures", "q.jsonl"),
        "no result in q.jsonl",
    ),
    "sweep drops": (("sweep", *ASK, *SET, "--drop", "0-9"), "from 0 to 4"),
    "sweep criterion": (("sweep", *ASK, *SET, "--criterion", "svl,svk"), "svl, svl-all"),
    "ablate sizes": (("ablate", *ASK, "--sizes", "9"), "block sizes"),
    "sweep without prompt": (("sweep", "--model", "model", "--image", "a.png"), "empty prompt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_exits_with_2_and_one_line(svl, broken, case):
    args, says = WRONG[case]
    code, out, err = svl(*args)
    assert code == 2, err
    assert out == "" and err.count("\n") == 1 and says in err


def test_anything_else_exits_with_1(svl, monkeypatch):
    from svl_core.cli import commands
    from svl_core.errors import SVLError

    def fails(args, recipe):
        raise SVLError("it broke")

    monkeypatch.setitem(commands.COMMANDS, "models", fails)
    assert svl("models")[0] == 1
    monkeypatch.setitem(
        commands.COMMANDS,
        "models",
        lambda args, recipe: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    assert svl("models")[0] == 1


def test_help_and_version_are_fast_and_light():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "svl_core", "--help"],
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - start
    assert done.returncode == 0 and all(command in done.stdout for command in COMMANDS)
    assert not re.search(r"\b(torch|transformers|numpy|gradio)\b", done.stderr) and took < 5
    done = subprocess.run(
        [sys.executable, "-m", "svl_core", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and re.match(r"svl \d", done.stdout)


def test_as_a_process(world):
    """Exit codes and streams as a shell sees them."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "svl_core",
            "analyze",
            "--model",
            str(world / "model"),
            "--image",
            str(world / "a.png"),
            "--prompt",
            "what",
            "--json",
            "-",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["layers"] == 6
    done = subprocess.run(
        [sys.executable, "-m", "svl_core", "analyze", "--image", "none.png", "--prompt", "what"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_torch_s_threads_sleep_while_they_wait():
    """Said to OpenMP before torch loads it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | {
        "OMP_DISPLAY_ENV": "TRUE"
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from svl_core.cli.main import main; main(['--version']); import torch",
        ],
        capture_output=True,
        text=True,
        env=env,
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_presets_rounds_and_a_chosen_rank(svl):
    found = result(
        svl(
            "compare",
            *ASK,
            *SET,
            "--drop",
            "1",
            "--preset",
            "best",
            "--rounds",
            "1",
            "--max-new-tokens",
            "3",
            "--json",
            "-",
        )
    )
    best = PRESETS["best"]
    assert (
        found["plan"]["criterion"] in best.criteria
        and found["plan"]["compensation"] == best.recipe.compensation
    )
    found = result(
        svl(
            "compare",
            *ASK,
            *SET,
            "--drop",
            "2",
            "--compensation",
            "scp",
            "--rank",
            "auto",
            "--max-new-tokens",
            "3",
            "--json",
            "-",
        )
    )
    assert found["plan"]["settings"]["compensation"]["rank"] in (0, 1, 2, 4, 8, 16, 32, 64)
    assert [
        svl("compare", *ASK, "--drop", "1", *more)[0]
        for more in (("--preset", "nonesuch"), ("--rank", "four"))
    ] == [2, 2]
    assert "as-published" in svl("models")[1]


def test_ranking_stability_is_told(svl):
    found = result(svl("analyze", *ASK, *SET, "--stability", "2", "--json", "-"))["stability"]
    assert found["drop"] == 2 and len(found["interval"]) == 6 and 0 <= found["overlap"] <= 1
    told = svl("analyze", *ASK, *SET, "--stability", "2")[1]
    assert "2 layers in common" in told and "given the layers" not in told
    assert (
        "given the layers dropped before it"
        in svl(
            "analyze", *ASK, *SET, "--criterion", "greedy-kl", "--rounds", "2", "--stability", "2"
        )[1]
    )


def test_a_share_of_the_visual_tokens(svl):
    found = result(
        svl(
            "compare",
            *ASK,
            *SET,
            "--drop",
            "0",
            "--visual-share",
            "0.25",
            "--max-new-tokens",
            "3",
            "--json",
            "-",
        )
    )
    assert found["visual_share"] == 0.25 and found["kl"] > 0
    found = result(
        svl(
            "evaluate",
            "--model",
            "model",
            "--data",
            "q.jsonl",
            "--visual-share",
            "0.5",
            "--max-new-tokens",
            "3",
            "--json",
            "-",
        )
    )
    assert found["visual_share"] == 0.5 and found["full"]["n"] == found["n"] == 4
    code, _, err = svl("compare", *ASK, *SET, "--drop", "0", "--visual-share", "1.5")
    assert code == 2 and "share of 1.5" in err


def test_unknown_quantisation_is_one_sentence(svl):
    code, _, err = svl("compare", *ASK, "--drop", "1", "--quantize", "3bit")
    assert code == 2 and err.count("\n") == 1 and "4bit, 8bit" in err


def test_plan_needs_a_config_alone(svl, tmp_path):
    """LLaVA-1.5-7B's published sizes: 7.06 B parameters; a feature takes 2 bytes, a cache 2 x 32 x
    4096 of them a position.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=32064),
        image_seq_length=576,
        dtype="bfloat16",
    ).save_pretrained(tmp_path)
    code, out, _ = svl(
        "analyze", "--plan", "--model", str(tmp_path), "--dtype", "bfloat16", "--json", "-"
    )
    plan = json.loads(out)["plan"]
    assert code == 0 and plan["parameters"]["all"] == 7_063_427_072 and plan["positions"] == 640
    assert (
        plan["memory"]["weights"] == 2 * 7_063_427_072
        and plan["memory"]["key_value_cache"] == 2 * 32 * 4096 * 2 * 640
    )
    assert (
        plan["memory"]["traces"] == 33 * 640 * 4096 * 2 + 640 * 33 * 33 * 8 + 10 * 32 * 640 * 4
        and min(plan["seconds"].values()) > 0
    )
    code, _, err = svl("analyze", "--plan", "--model", str(tmp_path), "--positions", "0")
    assert code == 2 and "at least one" in err


QUICK = ("--max-new-tokens", "2", "--json", "-")


def test_all_criteria_and_compensations_are_swept(svl):
    """Every criterion that ranks, and every compensation, as `--help` promises."""
    from svl_core.analysis.redundancy import CRITERIA
    from svl_core.pruning.compensation import COMPENSATIONS

    some = (*SET, "--drop", "1", "--draws", "2")
    found = result(svl("sweep", *ASK, *some, "--criterion", "all", *QUICK))
    ranking = [name for name, row in CRITERIA.items() if row.needs != "layers"]
    assert [row["criterion"] for row in found["rows"]] == ranking
    found = result(svl("sweep", *ASK, *some, "--compensation", "all", *QUICK))
    assert [row["compensation"] for row in found["rows"]] == list(COMPENSATIONS)


def test_a_plan_fitted_on_this_image_asks_for_it(svl, tmp_path):
    """It never becomes another set in silence."""
    made = ("--compensation", "scp", "--calibration", "this")
    first = result(svl("prune", *ASK, "--drop", "2", *made, "--out", tmp_path / "a", "--json", "-"))
    assert first["plan"]["recipe"]["calibration"] == "this"
    file = tmp_path / "a" / "svl_plan.json"
    code, out, err = svl("prune", "--model", "model", "--from", file, "--out", tmp_path / "b")
    assert code == 2 and "--image and --prompt" in err and not (tmp_path / "b").exists()
    again = result(svl("prune", *ASK, "--from", file, "--out", tmp_path / "c", "--json", "-"))
    assert again["plan"]["calibration"] == {"set": "this", "samples": 1}
    written, expected = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ca")
    assert written == expected
    older = {"drop": [2], "keep": [0, 1, 3, 4, 5], "settings": {"compensation": "scp"}}
    older["settings"]["calibration"] = "own"
    (tmp_path / "own.json").write_text(json.dumps(older))
    code, out, err = svl(
        "prune", "--model", "model", "--from", tmp_path / "own.json", "--out", tmp_path / "d"
    )
    assert code == 2 and "visitor" in err and "--calibration" in err


def test_a_plan_for_the_same_folder_is_taken_however_it_is_called(svl, world, tmp_path):
    plan = result(svl("compare", *ASK, "--drop", "1", *QUICK))
    (tmp_path / "bom.json").write_text(json.dumps(plan), encoding="utf-8-sig")
    question = ("--image", "a.png", "--prompt", "what", "--from", tmp_path / "bom.json")
    for name in ("model", "./model", "model/", world / "model"):
        assert svl("compare", "--model", name, *question, *QUICK)[0] == 0, name
    code, _, err = svl("compare", "--model", "text", *question)
    assert code == 2 and "--model model" in err


def test_what_is_typed_beside_a_preset_or_a_plan_wins(svl, tmp_path):
    """The preset gives way, and is no longer named; a plan and a preset together are refused."""
    some = ("compare", *ASK, *SET, "--drop", "1")
    plain = result(svl(*some, "--preset", "as-published", *QUICK))
    assert plain["plan"]["recipe"]["preset"] == "as-published"
    assert plain["plan"]["compensation"] == "scp" and plain["plan"]["recipe"]["rank"] == 4
    typed = ("--preset", "as-published", "--rank", "2", "--compensation", "bridge")
    found = result(svl(*some, *typed, *QUICK))["plan"]["recipe"]
    assert (found["rank"], found["compensation"], found["preset"]) == (2, "bridge", None)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plain))
    again = result(svl("compare", *ASK, *SET, "--from", file, "--strength", "0.5", *QUICK))["plan"]
    assert again["drop"] == plain["plan"]["drop"] and again["recipe"]["strength"] == 0.5
    code, _, err = svl("compare", *ASK, "--from", file, "--preset", "best")
    assert code == 2 and "--from and --preset" in err


def test_a_foreign_model_is_calibrated_on_its_own_images(svl):
    """The bundled scenes are not taken for it in silence; without a fit it needs no set."""
    found = result(svl("compare", *ASK, "--drop", "1", *QUICK))
    assert found["plan"]["calibration"] == {"set": "this", "samples": 1}
    found = result(svl("compare", *ASK, "--layers", "2", *QUICK))
    assert found["plan"]["calibration"]["samples"] == 0
    for command in (
        ("compare", *ASK, "--drop", "1", "--compensation", "scp"),
        ("evaluate", "--model", "model", "--data", "q.jsonl", "--drop", "1"),
        ("prune", "--model", "model", "--drop", "1", "--out", "never"),
    ):
        code, _, err = svl(*command)
        assert code == 2 and "--calibration" in err and err.count("\n") == 1


def test_every_field_of_a_recipe_is_an_option(svl):
    """Flag, bounds and help come from the field; what a field refuses, the command refuses."""
    from svl_core.cli.parser import build_parser
    from svl_core.recipe import OPTIONS

    parser = build_parser()._subparsers._group_actions[0].choices["compare"]
    offered = {action.dest: action for action in parser._actions}
    for name, option in OPTIONS.items():
        assert option.option in offered[name].option_strings, name
        assert offered[name].help.startswith(option.help), name
    for typed in ("nan", "-1", "1e999", "many"):
        code, _, err = svl("compare", *ASK, "--drop", "1", "--strength", typed)
        assert code == 2 and "strength" in err and "from 0 to 100" in err, typed


@pytest.mark.parametrize("option", ["--drop", "--layers"])
@pytest.mark.parametrize("value", ["none", "", "x"])
def test_what_to_drop_must_be_said(svl, tmp_path, monkeypatch, option, value):
    """A whole model is never written in the place of a pruned one; no torch is needed to say so."""
    monkeypatch.setitem(sys.modules, "svl_core.cli.commands", None)
    code, _, err = svl("prune", f"{option}={value}", "--out", tmp_path / "p")
    assert code == 2 and option in err and "none;" not in err and not (tmp_path / "p").exists()


def test_an_older_plan_of_layers_chosen_by_hand(svl, tmp_path):
    made = {"name": "none"}
    plan = {"drop": [2, 3], "criterion": "manual", "compensation": "none"}
    plan |= {"settings": {"criterion": {}, "compensation": made}}
    plan["calibration"] = {"set": "demo", "samples": 0}
    (tmp_path / "older.json").write_text(json.dumps({"model": "model", "plan": plan}))
    found = result(svl("compare", *ASK, "--from", tmp_path / "older.json", *QUICK))
    assert found["plan"]["drop"] == [2, 3] and found["plan"]["criterion"] == "manual"


def test_a_preset_on_fewer_samples_is_still_the_preset(svl):
    """Its criteria compete all the same."""
    typed = ("--preset", "best", "--calibration-size", "2")
    found = result(svl("compare", *ASK, *SET, "--drop", "1", *typed, *QUICK))["plan"]["recipe"]
    assert (found["preset"], found["calibration_size"]) == ("best", 2)


def test_a_preset_s_settings_are_listed_beside_its_criterion(svl):
    for preset in result(svl("models", "--json", "-"))["presets"]:
        assert not {"criterion", "compensation", "calibration_size"} & set(preset["settings"])


def test_the_page_is_started_with_its_own_options(monkeypatch, capsys):
    assert main(["page", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: svl page") and "--public" in told and "--port" in told
    started = []
    monkeypatch.setattr("svl_core.page.main", lambda *given: started.append(given))
    assert main(["page", "--port", "7861", "--model", "demo"]) == 0
    assert started == [(["--port", "7861", "--model", "demo"], "svl page")]
    assert main(["--help"]) == 0 and "serve the page" in capsys.readouterr().out


def test_several_processes_serve_no_page(monkeypatch, capsys):
    from contextlib import nullcontext

    from svl_core.cli import main as command

    monkeypatch.setattr(command, "_team", lambda: nullcontext(replace(ALONE, count=2)))
    assert main(["page"]) == 2
    assert "Found 2 processes for `svl page`; expected one" in capsys.readouterr().err


def test_visual_tokens_by_selector_and_layer(svl, tmp_path):
    """From the options to the plan, from it to the same answer, and to a checkpoint's words."""
    options = ("--visual-tokens", "fastv", "--visual-share", "0.25", "--visual-from", "3")
    short = ("--max-new-tokens", "3", "--json")
    first = tmp_path / "first.json"
    code, out, err = svl("compare", *ASK, *SET, "--drop", "1", *options, *short, first)
    assert code == 0, err
    assert "reads 25% of the visual tokens, chosen by attention of the last token" in out
    found = json.loads(first.read_text())
    recipe = found["plan"]["recipe"]
    assert (recipe["visual_tokens"], recipe["visual_from"]) == ("fastv", 3)
    again = result(svl("compare", *ASK, *SET, "--from", first, *short, "-"))
    assert (again["kl"], again["pruned"]["text"]) == (found["kl"], found["pruned"]["text"])
    assert found["kl"] > 0
    saved = tmp_path / "saved"
    code, out, err = svl("prune", "--model", "model", "--from", first, *SET, "--out", saved)
    assert code == 0, err
    typed = "--visual-share 0.25 --visual-tokens fastv --visual-from 3 --drop 0"
    assert f"which a checkpoint cannot hold; ask the checkpoint with {typed}" in out
    thinned = result(svl("compare", *ASK, "--drop", "0", *options, *short, "-"))
    asked = ("compare", "--model", saved, *ASK[2:], "--drop", "0", *options, *short, "-")
    of_checkpoint = result(svl(*asked))
    assert of_checkpoint["pruned"]["text"] == found["pruned"]["text"]
    assert thinned["speedup"]["expected"]["prefill"] > 1


def test_layers_that_skip_visual_tokens_on_the_command(svl):
    options = ("--visual-tokens", "shortv", "--visual-layers", "1,3-4")
    evaluated = ("evaluate", "--model", "model", "--data", "q.jsonl", "--max-new-tokens", "3")
    found = result(svl(*evaluated, *options, "--json", "-"))
    assert found["plan"]["recipe"]["visual_layers"] == [1, 3, 4] and found["full"]["n"] == 4
    swept = ("sweep", *ASK, *SET, "--drop", "0,1", "--max-new-tokens", "3", "--json", "-")
    rows = result(svl(*swept, *options))["rows"]
    plain = result(svl(*swept))["rows"]
    assert rows[0]["kl"] > 0 == plain[0]["kl"] and rows[1]["kl"] != plain[1]["kl"]
    assert rows[0]["expected"] > plain[0]["expected"] == 1
    for command in ("compare", "sweep"):
        drop = ("--drop", "1", "--visual-tokens", "best", "--visual-share", "0.5")
        code, _, err = svl(command, *ASK, *SET, *drop)
        assert code == 2 and "the token selector 'best'; expected one of tis, random" in err


def test_halves_of_layers_on_the_command(svl, tiny_sample, tmp_path):
    """By a ranking, by name, and from the plan that was written; the checkpoint says what it
    holds.
    """
    from svl_core.lvlm.loading import load

    ranked = ("compare", *ASK, *SET, "--drop", "3", "--granularity", "half")
    found = result(svl(*ranked, "--criterion", "svl-all", "--max-new-tokens", "2", "--json", "-"))
    plan = found["plan"]
    assert 2 * len(plan["drop"]) + len(plan["attention"]) + len(plan["mlp"]) == 3
    assert plan["recipe"]["granularity"] == "half" and plan["recipe"]["drop"] == 3
    assert found["parameters"]["pruned"] < found["parameters"]["full"]
    (tmp_path / "plan.json").write_text(json.dumps(found), encoding="utf-8")
    chosen = ("--from", tmp_path / "plan.json")
    code, out, err = svl("prune", "--model", "model", *chosen, "--out", tmp_path / "p")
    assert code == 0, err
    assert "without attention: " in out and "the checkpoint keeps their shape" in out
    pruned = load(tmp_path / "p")
    assert pruned.skipped == {half: tuple(plan[half]) for half in ("attention", "mlp")}
    card = (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
    assert "halves of layers" in card
    by_name = ("--drop-attention", "1", "--drop-mlp", "1,3-4", "--max-new-tokens", "2")
    found = result(svl("compare", *ASK, *by_name, "--json", "-"))
    assert found["plan"]["drop"] == [1] and found["plan"]["mlp"] == [3, 4]
    seen = result(svl("lens", *ASK, "--drop-mlp", "3", "--max-new-tokens", "2", "--json", "-"))
    assert seen["pruned"]["layer_ids"] == list(range(6)) and seen["plan"]["mlp"] == [3]
    marked = ("--model", "model", "--data", "q.jsonl", "--drop-attention", "2")
    found = result(svl("evaluate", *marked, "--max-new-tokens", "2", "--json", "-"))
    assert found["plan"]["attention"] == [2] and "accuracy_kept" in found
    analysed = svl("analyze", "--model", tmp_path / "p", *ASK[2:], "--json", "-")
    assert result(analysed)["layers"] == 6 - len(plan["drop"])
    rows = result(
        svl("sweep", *ASK, *SET, "--granularity", "half", "--drop", "0,1", "--json", "-")
    )["rows"]
    assert [row["drop"] for row in rows] == [0, 1] and "attention" in rows[1]


def test_halves_that_cannot_go_are_refused_on_the_command(svl):
    half = ("--granularity", "half")
    for options, sentence in (
        (("--drop", "1", "--drop-mlp", "2"), "Found both --drop and --drop-mlp; expected a number"),
        ((), "Found none of the options --drop --layers --drop-attention --drop-mlp --from;"),
        (("--drop", "1", *half, "--criterion", "angular", *SET), "'angular' for halves of layers"),
        (("--drop", "99", *half, *SET), "Found 99 halves of layers to drop; expected 0 to 8"),
        (("--drop-mlp", "2", "--compensation", "scp", *SET), "'scp' for a plan that skips halves"),
        (("--drop-mlp", "none"), "Found 'none' for --drop-mlp; expected whole numbers and ranges"),
        (("--granularity", "third", "--drop", "1"), "expected one of layer, half"),
    ):
        code, out, err = svl("compare", *ASK, *options)
        assert code == 2 and sentence in err and err.count("\n") == 1, err
