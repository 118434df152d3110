"""Load and soak, short versions of tests/benchmarks/load.py and soak.py: right answers for each
visitor, also after a restart, and nothing left behind.
"""

import socket
import sys
import time
from pathlib import Path

import gradio as gr
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from load import Crowd, prepare
from soak import grown, soak
from tiny import LAYERS, awaited, picture
from unserved import unserved
from visitor import Visitor

import svl_core as svl
from svl_core.demo.questions import labelled
from svl_core.service.limits import PUBLIC
from svl_core.service.stores import Models
from svl_core.ui.state.settings import Settings

pytestmark = pytest.mark.slow
DROP = [5, 6]


@pytest.fixture(scope="module")
def demo():
    """The bundled model: its captions tell one picture from another."""
    return svl.load("demo")


@pytest.fixture
def serve(demo, tmp_path, monkeypatch):
    """Starts the public page at one and the same port; returns the page."""
    from svl_core.ui import build, launch_options

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, pages = free.getsockname()[1], []

    def start():
        monkeypatch.setenv(
            "GRADIO_TEMP_DIR", str(tmp_path / f"uploads-{len(pages)}")
        )  # empty, as `app.py` has it: a page that closes deletes what it was sent
        page = build(demo, limits=PUBLIC)
        page.launch(
            prevent_thread_lock=True,
            quiet=True,
            server_name="127.0.0.1",
            server_port=port,
            **launch_options(PUBLIC),
        )
        pages.append(page)
        return page

    yield f"http://127.0.0.1:{port}", start
    for page in pages:
        page.close(verbose=False)


def test_a_crowd_gets_its_own_answers_and_comes_back_after_a_restart(serve, demo, tmp_path):
    url, start = serve
    page = start()
    asked = prepare(
        demo, [(one.image, "describe the picture.") for one in labelled(9, 3)], DROP, tmp_path, 24
    )
    assert len(asked) >= 8
    crowd = Crowd(url, asked, demo.num_layers, DROP, 4, new_tokens=24, reading_s=0.1)
    crowd.run()
    until = time.monotonic() + 200
    while min(crowd.done) < 1 and not crowd.failures and time.monotonic() < until:
        time.sleep(0.1)
    assert min(crowd.done) >= 1 and not crowd.failures, crowd.failures
    crowd.down.set()
    page.close(verbose=False)
    start()
    crowd.restarted = True
    crowd.down.clear()
    while len(crowd.back) < 4 and not crowd.failures and time.monotonic() < until + 100:
        time.sleep(0.1)
    crowd.until = 0
    crowd.join(60)
    assert len(crowd.back) == 4 and not crowd.failures and not crowd.mixed, (
        crowd.back,
        crowd.failures,
        crowd.mixed,
    )


def test_nothing_grows_with_the_number_of_analyses(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "page"))  # the example's picture
    page = unserved(Models(tiny))
    visitors = tmp_path / "visitors"
    visitors.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(visitors))
    samples = soak(
        page,
        (picture(seed=k) for k in range(100)),
        visitors,
        20,
        Settings(max_new_tokens=3, compensation="none"),
        every=5,
    )
    last = samples[-1][1]
    assert (last["stored_files"], last["sessions"], last["analyses_kept"]) == (0, 0, 0)
    assert (
        abs(grown(samples)["threads"]) < 30
        and samples[-1][1]["objects"] - samples[1][1]["objects"] < 300
    ), samples


def test_a_session_holds_its_own_values_only_and_goes_with_its_visitor(public_site, png):
    """No description of the page for each visitor, one component for each part however often it is
    updated, and nothing after the visit.
    """
    url, page = public_site
    visitor = Visitor(url)
    path = visitor.upload(png)
    for prompt in ("what?", "where?"):
        assert (
            visitor.ask(path, prompt)["ok"] and visitor.compare(LAYERS, [1], answer_length=2)["ok"]
        )
    held = page.state_holder.session_data[visitor.session]
    assert set(held.blocks_config.blocks) == set(page.blocks) and all(
        block._id == number for number, block in held.blocks_config.blocks.items()
    )
    assert not held.config_values and held.state_data and len(page._queue.event_analytics) <= 1
    visitor.leave()
    until = time.monotonic() + 60
    while visitor.session in page.state_holder.session_data and time.monotonic() < until:
        time.sleep(0.1)
    assert visitor.session not in page.state_holder.session_data


def test_outputs_left_as_they_are_are_not_made_again(public_site):
    """What the page sends is the same with and without gradio's own way of remaking skipped
    outputs, which this page goes round.
    """
    url, page = public_site
    visitor = Visitor(url)
    fn = page.fns[visitor.functions["compare"]["id"]]
    values = [gr.skip() for _ in fn.outputs]
    values[1] = "<p>words</p>"
    state = page.state_holder[visitor.session]
    short = awaited(page.postprocess_data(fn, list(values), state))
    assert all(
        state[block._id] is page.blocks[block._id] for block in fn.outputs if not block.stateful
    )
    own = awaited(type(page).postprocess_data(page, fn, list(values), state))
    assert short[1] == own[1] == "<p>words</p>" and any(
        state[block._id] is not page.blocks[block._id] for block in fn.outputs
    )
    for block, mine, gradios in zip(fn.outputs, short, own):
        assert block is fn.outputs[1] or mine == (
            gradios and {key: each for key, each in gradios.items() if key != "props"}
        ), block  # it marks the props of HTML as an update too
    visitor.leave()
