"""The public endpoints through gradio_client, on the tiny model: typed, documented, equal to the
library, within the limits.
"""

import base64
import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import svl_core as svl
from svl_core.service import tasks
from svl_core.service.limits import Limits
from svl_core.ui import api, build, launch_options
from svl_core.ui.api import NAMES

PROMPT = "what is in the top left?"


@pytest.fixture(scope="module")
def served(tiny):
    page = build(
        tiny,
        knows_scenes=True,
        limits=Limits(
            any_model=False,
            sweep_points=6,
            questions=26,
            new_tokens=8,
            details=False,
            prompt_chars=100,
        ),
    )
    _, url, _ = page.launch(
        prevent_thread_lock=True,
        quiet=True,
        server_name="127.0.0.1",
        **launch_options(page.workspace.limits),
    )
    yield Client(url, verbose=False), page
    page.close()


@pytest.fixture(scope="module")
def data(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_endpoints_are_typed_and_documented(served):
    listed = served[0].view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(listed) == {f"/{name}" for name in NAMES}
    parameters = {p["parameter_name"]: p for p in listed["/compare"]["parameters"]}
    assert (
        parameters["drop"]["type"] == {"type": "integer"}
        and parameters["drop"]["parameter_default"] == 4
        and not parameters["image"]["parameter_has_default"]
        and "request" not in parameters
    )
    info = served[1].get_api_info()["named_endpoints"]
    assert all(len(info[f"/{name}"]["description"]) > 40 for name in NAMES)


def test_answers_are_those_of_the_library(served, tiny, image, tmp_path, data):
    client, _ = served
    image.save(tmp_path / "picture.png")
    found = client.predict(
        image=handle_file(tmp_path / "picture.png"), prompt=PROMPT, api_name="/analyse"
    )
    sample = tiny.encode(image, PROMPT)
    trace = svl.trace(tiny, [sample])
    scores = svl.redundancy(trace, svl.importance(trace))
    assert (
        found["ranking"] == list(scores.ranking)
        and found["protected"] == [0, 5]
        and np.allclose(found["redundancy"]["svl"], scores.scores, atol=1e-5)
    )
    assert (
        len(found["similarity"]) == 7
        and len(found["importance"]["visual"]) == 36 == found["visual_tokens"]
    )
    compared = client.predict(
        image=data, prompt=PROMPT, layers=[2, 3], max_new_tokens=4, api_name="/compare"
    )
    direct = svl.compare(
        tiny, svl.prune(tiny, svl.manual_plan([2, 3], 6)), sample, max_new_tokens=4
    )
    assert (
        compared["plan"]["keep"] == [0, 1, 4, 5]
        and compared["full"]["text"] == direct.full.text
        and compared["pruned"]["text"] == direct.pruned.text
        and compared["kl"] == pytest.approx(direct.kl, abs=1e-5)
    )
    by_count = client.predict(
        image="example:0",
        prompt=PROMPT,
        drop=1,
        compensation="scp",
        max_new_tokens=2,
        api_name="/compare",
    )
    assert by_count["plan"]["compensation"] == "scp" and len(by_count["plan"]["drop"]) == 1


def test_halves_of_layers_are_ranked_and_named(served, tiny, image, data):
    """By number as the library ranks them on the picture, and by name; so in a sweep."""
    client, _ = served
    asked = {"image": data, "prompt": PROMPT, "max_new_tokens": 2, "api_name": "/compare"}
    found = client.predict(**asked, drop=3, granularity="half", criterion="svl-all")
    sample = tiny.encode(image, PROMPT)
    read = svl.trace(tiny, [sample])
    scores = svl.redundancy(read, None, "svl-all", lvlm=tiny, granularity="half")
    plan = svl.plan(scores, 3)
    told = found["plan"]
    assert told["drop"] == list(plan.drop)
    assert (told["attention"], told["mlp"]) == (list(plan.attention), list(plan.mlp))
    direct = svl.compare(tiny, svl.prune(tiny, plan), sample, max_new_tokens=2)
    assert found["kl"] == pytest.approx(direct.kl, abs=1e-5)
    named = client.predict(**asked, drop_attention=[2], drop_mlp=[2, 3])
    assert named["plan"]["drop"] == [2] and named["plan"]["mlp"] == [3]
    read = client.predict(**asked | {"api_name": "/lens"}, drop_mlp=[3])
    assert read["pruned"]["layer_ids"] == list(range(6))
    swept = client.predict(
        image=data,
        prompt=PROMPT,
        drops=[0, 1],
        granularity="half",
        max_new_tokens=2,
        api_name="/sweep",
    )
    assert [row["drop"] for row in swept["rows"]] == [0, 1] and "mlp" in swept["rows"][1]
    asked_about = client.predict(drop=2, questions=13, granularity="half", api_name="/evaluate")
    told = asked_about["plan"]
    assert 2 * len(told["drop"]) + len(told["attention"]) + len(told["mlp"]) == 2
    with pytest.raises(AppError, match="criterion 'angular' for halves of layers"):
        client.predict(**asked, drop=3, granularity="half", criterion="angular")


def test_sweep_and_evaluation(served, data):
    client, _ = served
    job = client.submit(
        image=data,
        prompt=PROMPT,
        criteria=["svl", "shortgpt"],
        drops=[0, 1],
        max_new_tokens=2,
        api_name="/sweep",
    )
    made = job.result(timeout=120)
    assert [(row["criterion"], row["drop"]) for row in made["rows"]] == [
        ("svl", 0),
        ("svl", 1),
        ("shortgpt", 0),
        ("shortgpt", 1),
    ] and made["rows"][0]["kl"] == pytest.approx(0, abs=1e-6)
    assert any(
        0 < len(each.get("rows", ())) < 4 for each in job.outputs()[:-1]
    )  # rows came as they were made
    asked = client.predict(drop=1, questions=13, api_name="/evaluate")
    assert (
        asked["n"] == 13
        and len(asked["by_kind"]) == 13
        and asked["full"]["n"] == 13
        and len(asked["plan"]["drop"]) == 1
    )


@pytest.mark.parametrize(
    "endpoint, given, says",
    [
        ("analyse", {"image": "nothing:0"}, "expected a data address"),
        ("analyse", {"image": {"path": "/etc/passwd"}}, "outside the upload folder"),
        ("analyse", {"image": "data:image/png;base64,####"}, "no base64"),
        ("analyse", {"image": "example:0", "prompt": " "}, "prompt"),
        ("analyse", {"image": "example:0", "prompt": "x" * 101}, "at most 100"),
        ("analyse", {"image": "example:0", "model": "nobody/nothing"}, "not on this page's list"),
        ("analyse", {"image": "example:0", "criterion": "magic"}, "shortgpt"),
        ("compare", {"image": "example:0", "max_new_tokens": 9}, "at most 8"),
        ("compare", {"image": "example:0", "layers": [17]}, "expected"),
        ("compare", {"image": "example:0", "drop": "many"}, "Something went wrong|expected"),
        (
            "sweep",
            {
                "image": "example:0",
                "drops": [0, 1, 2, 3],
                "criteria": ["svl", "shortgpt"],
                "max_new_tokens": 2,
            },
            "at most 6",
        ),
        ("evaluate", {"questions": 27}, "at most 26"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(served, endpoint, given, says):
    prompt = {"prompt": PROMPT} if endpoint != "evaluate" else {}
    with pytest.raises(AppError, match=says):
        served[0].predict(**{**prompt, **given}, api_name=f"/{endpoint}")


def test_a_cancelled_job_ends_its_work_and_leaves_its_rows(served, data, tiny):
    client, page = served
    slow = [layer.register_forward_pre_hook(lambda *_: time.sleep(0.02)) for layer in tiny.layers]
    try:
        job, rows = (
            client.submit(
                image=data,
                prompt=PROMPT,
                criteria=["svl", "shortgpt"],
                drops=[0, 1, 2],
                max_new_tokens=8,
                api_name="/sweep",
            ),
            0,
        )
        for made in job:
            rows = len(made.get("rows", ()))
            if rows:
                break
        events = [event for held in page.workspace.jobs._deadlines.values() for event in held]
        job.cancel()
        assert len(events) == 1 and events[0].wait(5)  # its own work is told to end
        deadline = time.monotonic() + 5
        while page.workspace.jobs._deadlines and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not page.workspace.jobs._deadlines and page.workspace.models.busy.acquire(timeout=5)
        page.workspace.models.busy.release()
    finally:
        for hook in slow:
            hook.remove()
    assert 0 < rows < 6 and len(job.outputs()[-1]["rows"]) < 6


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"api_name": "/sweep", "criteria": 5}, "criteria = 5; expected a list"),
        ({"api_name": "/sweep", "compensations": None}, "compensations = None; expected a list"),
        ({"api_name": "/sweep", "drops": 3}, "drops = 3; expected a list"),
        ({"api_name": "/sweep", "drops": ["x"]}, "expected a list of whole numbers"),
        ({"api_name": "/compare", "rank": None}, "a rank of None; expected"),
        ({"api_name": "/compare", "drop": "x"}, "layers to drop of 'x'; expected"),
        ({"api_name": "/compare", "strength": 1e308}, "a strength of 1e\\+308; expected .* to 100"),
        ({"api_name": "/compare", "strength": "nan"}, "a strength of 'nan'; expected"),
        ({"api_name": "/compare", "layers": [0.5]}, "the layers"),
        ({"api_name": "/compare", "model": 5}, "model = 5; expected text"),
        ({"api_name": "/compare", "calibration": "/etc"}, "the calibration set '/etc'; expected"),
        ({"api_name": "/compare", "calibration": "own"}, "one of auto, this, demo"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(served, data, wrong, says):
    with pytest.raises(AppError, match=says):
        served[0].predict(image=data, prompt=PROMPT, max_new_tokens=2, **wrong)


def test_progress_is_a_short_number():
    before = {"doing": "Starting", "progress": 0.0, "left_s": None}
    told = api._progress({"doing": ("Reading", 0.1 + 0.2)}, before, tasks.Pace())
    assert told == {"doing": "Reading", "progress": 0.3, "left_s": None}
    assert api._progress({"doing": ("On", None)}, told, tasks.Pace())["progress"] == 0.3
    assert api._progress(None, told, tasks.Pace()) == told


def test_a_calibration_set_stays_within_the_limits(served):
    """The bundled set is no larger for a program than for a visitor."""
    limits = served[1].workspace.limits
    too_many = {"drop": 1, "questions": 13, "calibration_size": limits.calibration_samples + 1}
    with pytest.raises(AppError, match="calibration samples"):
        served[0].predict(**too_many, api_name="/evaluate")


def test_missing_values_are_named(served):
    import httpx

    url = str(served[0].src).rstrip("/") + "/gradio_api/call/evaluate"
    event = httpx.post(url, json={"data": [0]}).json()["event_id"]
    said = httpx.get(f"{url}/{event}", timeout=60).text
    assert "event: error" in said and "in this order: drop, questions, seed" in said
    assert "call/v2" in said and "Traceback" not in said


def test_a_preset_sets_what_is_not_said_otherwise(served, tiny):
    """Its criterion, its compensation and what it fits with; an argument that differs stays."""
    service = api.Service(served[1].workspace)
    usual = {each.name: each.default for each in api.ARGUMENTS["compare"]}
    given = {**usual, "image": "example:0", "prompt": PROMPT, "max_new_tokens": 2}
    best = service._settings({**given, "preset": "best"}, "compare")
    wanted = svl.PRESETS["best"].recipe
    assert (best.criterion, best.compensation) == (wanted.criterion, wanted.compensation)
    changed = service._settings({**given, "preset": "best", "top_p": 0.9}, "compare")
    assert changed.compensation == "refit" and changed.top_p == 0.9
    plain = service._settings(given, "compare")
    assert plain.compensation == "none"


def test_a_preset_compares_by_the_criterion_that_wins(served, tiny):
    compared = served[0].predict(
        image="example:0",
        prompt=PROMPT,
        drop=1,
        preset="best",
        calibration_size=2,
        max_new_tokens=2,
        api_name="/compare",
    )
    assert compared["plan"]["compensation"] == "refit" and len(compared["plan"]["drop"]) == 1
    assert compared["plan"]["criterion"] in svl.PRESETS["best"].criteria


@pytest.mark.parametrize(
    "name, given, status, says",
    [
        ("compare", {"image": "example:0", "prompt": PROMPT, "colour": 1}, 422, "does not have"),
        ("compare", {"image": "example:0"}, 422, "without one that it needs"),
        ("nothing", {}, 404, "Found no such endpoint"),
    ],
)
def test_calls_by_name_are_refused_in_a_sentence(served, name, given, status, says):
    import httpx

    url = str(served[0].src).rstrip("/") + f"/gradio_api/call/v2/{name}"
    refused = httpx.post(url, json=given)
    assert refused.status_code == status and says in refused.json()["detail"]


def test_the_readme_s_call_by_curl_gives_a_result(served, tmp_path):
    """Its very lines, on this page's address."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if line.startswith(("U=http", "curl "))]
    assert len(lines) == 2
    script = "\n".join(lines).replace("http://127.0.0.1:7860/", str(served[0].src))
    script = script.replace('"drop": 4', '"drop": 1, "max_new_tokens": 2')
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert "event: complete" in said.stdout, said
    found = json.loads(said.stdout.rpartition("data: ")[2])[0]
    assert len(found["plan"]["drop"]) == 1
