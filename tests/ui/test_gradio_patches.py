"""Tripwires: what each patch relies on in gradio is still there, and the patch does what it says.

A failure names the patch, and its module says why it is needed and what would make it unnecessary.
"""

import asyncio
import importlib
import inspect
import sys
import tomllib
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from fastapi import HTTPException
from gradio import (
    analytics,
    component_meta,
    queueing,
    route_utils,
    routes,
    state_holder,
    utils,
)
from gradio.data_classes import ImageData
from starlette.formparsers import MultiPartException
from tiny import awaited

from svl_core.service.calibration import uploaded_name
from svl_core.service.ledger import BRINGER, Bringer
from svl_core.service.limits import Limits
from svl_core.service.waiting import Listeners
from svl_core.ui import gradio_patches
from svl_core.ui.gradio_patches import (
    begun_uploads,
    environment,
    front_page,
    inputs,
    mcp_tools,
    plain_values,
    sessions,
    skipped_outputs,
    stubs,
    undecoded_images,
    unplotted,
    unpolled,
    update_marks,
    upload_sets,
    waiting_room,
)

ROOT = Path(__file__).resolve().parents[2]
NAMES = [patch.name for patch in gradio_patches.PATCHES]


def relied_on(patch, still_so, what):
    """Fails with the patch's name where gradio is not as it was."""
    assert still_so, (
        f"gradio {gr.__version__} breaks the patch svl_core/ui/gradio_patches/{patch}.py: {what};"
        f" it was tested on {gradio_patches.GRADIO}"
    )


def parameters(function):
    return list(inspect.signature(function).parameters)


def source(function):
    return inspect.getsource(function)


@pytest.fixture
def page():
    """An image and a text in, two texts and a state out."""
    with gr.Blocks() as blocks:
        picture, text = gr.Image(type="filepath", image_mode=None), gr.Textbox()
        shown = [gr.Textbox(), gr.HTML(), gr.State(1)]
        gr.Button().click(lambda *values: ["a", "b", 2], [picture, text], shown)
    return blocks


def handler_of(page):
    return next(iter(page.fns.values()))


# --------------------------------------------------------------------------- all of them
def test_the_list_is_whole_and_bound_to_the_version_that_was_tested():
    folder = Path(gradio_patches.__file__).parent
    assert sorted(NAMES) == sorted(path.stem for path in folder.glob("[a-z]*.py"))
    tripwires = {name.removeprefix("test_tripwire_") for name in globals()}
    for name in NAMES:
        module = importlib.import_module(f"svl_core.ui.gradio_patches.{name}")
        assert callable(module.apply) and name in tripwires, name
        for part in ("What gradio does:", "Why not:", "How:", gradio_patches.GRADIO):
            assert part in module.__doc__, (name, part)
    assert gr.__version__.startswith(f"{gradio_patches.GRADIO}.")
    major, minor = map(int, gradio_patches.GRADIO.split("."))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["mcp"]]
    bounds = [line for line in wanted if line.startswith("gradio")]
    assert len(bounds) == 2
    assert all(line.endswith(f">={major}.{minor},<{major}.{minor + 1}") for line in bounds)


def test_gradio_is_reached_into_nowhere_else():
    """Private names of gradio, its modules and what is set on them, outside of the patches."""
    for path in (ROOT / "svl_core").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "gradio_patches" in path.parts or "gradio" not in text:
            continue
        for reached in ("_queue", "state_holder", "upload_file_set", "temp_file_sets", "._data"):
            assert reached not in text, (path, reached)


# ---------------------------------------------------------------------------- one by one
def test_tripwire_environment(monkeypatch):
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with gr.Blocks() as usual:
        pass
    usual.queue()
    relied_on(
        "environment",
        analytics.analytics_enabled() and usual._queue.ANALYTICS_MAX_EVENTS > 1,
        "nothing is reported or summarised by default any more",
    )
    monkeypatch.setenv("GRADIO_ANALYTICS_MAX_EVENTS", "5")  # the operator's word stands
    for name, value in environment.VARIABLES.items():
        monkeypatch.setenv(name, value) if name != "GRADIO_ANALYTICS_MAX_EVENTS" else None
    environment.apply()
    with gr.Blocks() as page:
        pass
    page.queue()
    relied_on(
        "environment",
        not analytics.analytics_enabled()
        and page._queue.ANALYTICS_MAX_EVENTS == 5
        and page._queue.ANAYLTICS_CACHE_FREQUENCY == 10**9,
        "GRADIO_ANALYTICS_* are not read any more",
    )


def test_tripwire_stubs(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: pytest.fail("a source was rendered"))
    relied_on("stubs", type(gr.Textbox).__name__ == "ComponentMeta", "the metaclass is renamed")
    write = component_meta.create_or_modify_pyi
    with stubs.apply():
        relied_on("stubs", write(gr.Textbox, "Textbox", []) is None, "the class is looked up anew")
        assert inspect.getfile(pytest.fixture)  # everything else is found as before
    with pytest.raises(pytest.fail.Exception):
        write(gr.Textbox, "Textbox", [])
    assert inspect.getfile(gr.Textbox)


def test_tripwire_undecoded_images(tmp_path):
    undecoded_images.apply()
    undecoded_images.apply()  # once is enough
    relied_on(
        "undecoded_images",
        parameters(gr.Image.preprocess) == ["self", "payload"]
        and "preprocess_image"
        in inspect.getclosurevars(gr.Image.preprocess).nonlocals["original"].__code__.co_names,
        "gr.Image.preprocess works otherwise",
    )
    upload = ImageData(path=str(tmp_path / "not a picture.png"))
    as_it_is = gr.Image(type="filepath", image_mode=None, render=False)
    relied_on("undecoded_images", as_it_is.preprocess(upload) == upload.path, "payload.path")
    assert as_it_is.preprocess(None) is None
    with pytest.raises(Exception):  # noqa: B017 (gradio's own errors)
        gr.Image(type="pil", render=False).preprocess(upload)


def test_tripwire_begun_uploads(tmp_path):
    parser = begun_uploads._GRADIO_PARSER
    relied_on(
        "begun_uploads",
        {"max_files", "upload_dir"} <= set(parameters(parser))
        and "_files_to_close_on_error.append(" in source(parser.on_headers_finished)
        and "GradioMultiPartParser(" in source(route_utils.upload_fn)
        and "upload_fn(" in source(routes),
        "uploads are read otherwise",
    )
    begun_uploads.apply()
    relied_on(
        "begun_uploads",
        route_utils.GradioMultiPartParser is begun_uploads.TellingParser,
        "GradioMultiPartParser",
    )
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="{0}.png"\r\n\r\n{0}\r\n'

    async def stream(count, ends):
        for number in range(count):
            yield part.format(number).encode()
        if not ends:
            raise OSError(28, "No space left on device")
        yield b"--x--\r\n"

    async def parsed(count, ends=True, by=None):
        BRINGER.set(by)
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        reads = {"upload_dir": tmp_path, "max_file_size": 9}
        await route_utils.GradioMultiPartParser(headers, stream(count, ends), **reads).parse()

    bringer = Bringer("198.18.0.1", most_files=3)
    awaited(parsed(3, by=bringer))
    assert len(bringer.begun) == 3 == len(list(tmp_path.iterdir()))
    with pytest.raises(MultiPartException, match="Too many files"):
        awaited(parsed(4, by=bringer))
    with pytest.raises(OSError):
        awaited(parsed(2, ends=False, by=bringer))
    bringer.remove_begun()
    assert not list(tmp_path.iterdir())
    awaited(parsed(4))  # without anybody who is told
    assert len(list(tmp_path.iterdir())) == 4


def test_tripwire_inputs(page):
    relied_on(
        "inputs",
        parameters(gr.Blocks.preprocess_data)[:4] == ["self", "block_fn", "inputs", "state"]
        and "self.preprocess_data(" in source(gr.Blocks.process_api),
        "Blocks.preprocess_data is called otherwise",
    )
    inputs.apply(page)
    fn = handler_of(page)
    for path in ("http://127.0.0.1/x.png", " HTTPS://127.0.0.1/x.png"):
        with pytest.raises(gr.Error, match="Found a web address"):
            awaited(page.preprocess_data(fn, [{"path": path}, "words"], None))
    deep = []
    for _ in range(inputs.DEPTH + 2):
        deep = [deep]
    with pytest.raises(gr.Error, match="nested too deeply"):
        awaited(page.preprocess_data(fn, [None, deep], None))
    with pytest.raises(gr.Error, match="expected what its controls offer"):
        awaited(page.preprocess_data(fn, [{"path": 3}, "words"], None))
    assert awaited(page.preprocess_data(fn, [None, "words"], None)) == [None, "words"]


def test_tripwire_skipped_outputs(page):
    relied_on(
        "skipped_outputs",
        parameters(gr.Blocks.postprocess_data) == ["self", "block_fn", "predictions", "state"]
        and "self.postprocess_data(" in source(gr.Blocks.process_api)
        and gr.skip() == {"__type__": "update"},
        "Blocks.postprocess_data is called otherwise",
    )
    fn = handler_of(page)
    cases = [
        [gr.skip(), "<b>b</b>", gr.skip()],
        ["a", "<b>b</b>", 2],
        [gr.skip(), gr.skip(), gr.skip()],
        ["a", gr.skip(), 3],
    ]
    usual = [awaited(page.postprocess_data(fn, list(values), None)) for values in cases]
    handed_over = []
    original = page.postprocess_data

    async def watched(block_fn, predictions, state):
        handed_over.append(len(block_fn.outputs))
        return await original(block_fn, predictions, state)

    page.postprocess_data = watched
    skipped_outputs.apply(page)
    lean = [awaited(page.postprocess_data(fn, list(values), None)) for values in cases]
    assert handed_over == [1, 3, 2]  # what is all skipped never reaches gradio
    for values, mine, gradios in zip(cases, lean, usual, strict=True):
        for value, a, b in zip(values, mine, gradios, strict=True):
            if value != gr.skip():
                relied_on("skipped_outputs", a == b, f"{value!r} becomes {b!r}, not {a!r}")
    assert lean[2] == [gr.skip(), gr.skip(), None]


@pytest.fixture
def controls():
    """A page with one plain component of each kind and a file, and its session."""
    with gr.Blocks() as blocks:
        parts = [
            gr.HTML(),
            gr.Textbox(),
            gr.Checkbox(),
            gr.Slider(0, 9, 1, step=1),
            gr.Radio(["a", "b"]),
            gr.Dropdown([("A", "a"), ("B", "b")]),
            gr.Code(),
            gr.State({"n": 1}),
            gr.File(),
        ]
        gr.Button().click(lambda *values: values, parts, parts)
    return blocks


def answered(page, method, values):
    """What a method of the page makes of values, in a session of its own: (result, settings that
    the session's slider has then), or that it refuses them.
    """
    state, fn = state_holder.SessionState(page), handler_of(page)
    slider = next(block for block in page.blocks.values() if isinstance(block, gr.Slider))
    try:
        made = awaited(getattr(page, method)(fn, deepcopy(values), state))
    except Exception:
        return "refused"
    stored = next(block for block in fn.outputs if isinstance(block, gr.State))
    return made, state[slider._id].maximum, state[stored._id]


IN = [{"drop": [1]}, "words", True, 3, "a", "b", None, None, None]
OUT = ["<b>b</b>", "words", True, 3, "a", "b", " x = 1 ", {"n": 2}, None]


def test_tripwire_plain_values(controls):
    """Exactly what gradio makes of the same values, by fewer hands."""
    relied_on(
        "plain_values",
        "block.preprocess, inputs_cached" in source(gr.Blocks.preprocess_data)
        and "block.postprocess, prediction_value" in source(gr.Blocks.postprocess_data)
        and {"component_prop_inputs", "is_validator_function"} <= set(vars(handler_of(controls))),
        "components are called otherwise",
    )
    moved, same = gr.update(maximum=5, value=2), gr.update(maximum=9, value=2)
    changed = [OUT[:3] + [update] + OUT[4:] for update in (moved, same, gr.update(value=None))]
    cases = [("preprocess_data", values) for values in (IN, [None] * 9, IN[:3] + [11] + IN[4:])]
    cases += [("preprocess_data", [{"items": [{"path": "/etc/passwd"}]}, *IN[1:]])]
    cases += [("postprocess_data", values) for values in (OUT, *changed)]
    usual = [answered(controls, method, values) for method, values in cases]
    handed_over, read, write = [], controls.preprocess_data, controls.postprocess_data

    async def watched_read(block_fn, values, state):
        handed_over.append([type(block).__name__ for block in block_fn.inputs])
        return await read(block_fn, values, state)

    async def watched_write(block_fn, values, state):
        handed_over.append([type(block).__name__ for block in block_fn.outputs])
        return await write(block_fn, values, state)

    controls.preprocess_data, controls.postprocess_data = watched_read, watched_write
    plain_values.apply(controls)
    for (method, values), expected in zip(cases, usual, strict=True):
        made = answered(controls, method, values)
        relied_on("plain_values", made == expected, f"{values} becomes {expected}, not {made}")
    assert usual[1] == usual[2] == "refused" and [seen[1] for seen in usual[4:]] == [9, 5, 9, 9]
    with_files, with_changes = ["HTML", "File"], ["Slider", "File"]  # all else never gets there
    assert handed_over.count(with_files) == 1 and handed_over.count(with_changes) == 1
    assert [seen for seen in handed_over if seen not in (with_files, with_changes, ["File"])] == []


def test_tripwire_unpolled():
    queue = Path(inspect.getsourcefile(queueing)).read_text(encoding="utf-8")
    relied_on(
        "unpolled",
        queue.count("await asyncio.sleep(self.sleep_when_free)") == 3
        and "self.process_events, events, batch" in queue
        and ".push(" in source(routes),
        "the queue waits otherwise",
    )

    async def rests() -> tuple[float, float]:
        """Seconds of a pause that nobody ends, and of one that is ended at once."""
        pause, clock, found = unpolled.Pause(0.2), asyncio.get_running_loop().time, []
        for ended in (False, True):
            begun = clock()
            if ended:
                asyncio.get_running_loop().call_later(0.01, pause.end)
            await queueing.asyncio.sleep(pause)
            found.append(clock() - begun)
        assert await queueing.asyncio.sleep(0, "result") == "result"
        return tuple(found)

    with gr.Blocks() as page:
        gr.Button().click(lambda: None)
    page.queue()
    unpolled.apply(page)
    assert queueing.asyncio.Queue is asyncio.Queue
    whole, ended = awaited(rests())
    assert ended < 0.2 <= whole + 0.01
    queue = page._queue
    queue.sleep_when_free._over = over = asyncio.Event()
    awaited(queue.push(SimpleNamespace(fn_index=None), None, None))
    relied_on("unpolled", over.is_set(), "an event that comes ends no pause")


def test_tripwire_unplotted(monkeypatch):
    relied_on(
        "unplotted",
        "with utils.MatplotlibBackendMananger():" in source(route_utils.call_process_api)
        and "class MatplotlibBackendMananger:" in Path(utils.__file__).read_text("utf-8"),
        "matplotlib is asked otherwise",
    )
    monkeypatch.setattr(utils, "MatplotlibBackendMananger", None)
    unplotted.apply()
    with utils.MatplotlibBackendMananger():
        assert utils.MatplotlibBackendMananger is nullcontext


def test_tripwire_front_page():
    document = Path(gr.__file__).with_name("templates") / "frontend" / "index.html"
    text = document.read_text("utf-8")
    relied_on(
        "front_page",
        text.count("</head>") == 1 and 'property="og:title"' in text and "custom_head" not in text,
        "the document is another one",
    )
    card = partial(front_page.card_tags, "A title", "What it is", "http://here/card.png")
    changed = front_page.FrontPage(None, lambda app: "<script>1</script>", lambda app, at: card(at))
    changed._head = "<script>1</script>"
    page = changed.changed(text, card("http://here/?image=draw:1&x=<y>"))
    head = page.partition("</head>")[0]
    assert head.endswith("<script>1</script>") and page.count("</head>") == 1
    assert (
        "gradio-app" not in head and "@Gradio" not in head and "raw.githubusercontent" not in page
    )
    assert 'property="og:url" content="http://here/?image=draw:1&amp;x=&lt;y&gt;"' in head


def test_tripwire_sessions(page):
    holder = state_holder.StateHolder()
    relied_on(
        "sessions",
        {"session_data", "time_last_used", "lock"} <= set(vars(holder))
        and "SessionState(self.blocks)" in source(sessions._GRADIO_GETITEM)
        and hasattr(route_utils, "SessionState"),
        "sessions are made or stored otherwise",
    )
    methods = ("__setitem__", "_update_config", "_update_value_in_config")
    gradios = sessions._GRADIO_SESSION
    relied_on("sessions", all(name in vars(gradios) for name in methods), "methods are renamed")
    with gr.Blocks() as usual:
        gr.Textbox()
    sessions.apply(page, {"open"}.__contains__)
    described = state_holder.SessionState(usual)
    relied_on("sessions", described.config_values, "a session describes the page no more")
    assert type(described) is gradios
    lean = state_holder.SessionState(page)
    assert isinstance(lean, sessions.LeanSession) and not lean.config_values
    relied_on("sessions", lean.blocks_config.blocks is not None, "blocks_config")
    state = next(block for block in page.blocks.values() if isinstance(block, gr.State))
    text = next(block for block in page.blocks.values() if isinstance(block, gr.Textbox))
    lean[state._id] = 7
    lean[text._id] = made_anew = gr.Textbox("new", render=False)
    assert lean[state._id] == 7 and lean[text._id] is made_anew and made_anew._id == text._id
    assert not lean.config_values and page.blocks[text._id] is text


def test_sessions_are_kept_open_and_forgotten(page):
    assert not sessions.keep_open(page, "nobody")
    sessions.forget(page, "nobody")  # a page that is not served yet
    sessions.apply(page, {"open"}.__contains__)
    holder = state_holder.StateHolder()
    page.state_session_capacity = 9
    holder.set_blocks(page)
    held = holder["visitor"]
    held.is_closed = True
    assert sessions.keep_open(page, "visitor") and not held.is_closed
    assert not sessions.keep_open(page, "nobody")
    sessions.forget(page, "visitor")
    assert "visitor" not in holder and not holder.time_last_used


def test_an_open_session_is_never_given_up_for_an_invented_one(page):
    sessions.apply(page, {"first", "late"}.__contains__)
    holder = state_holder.StateHolder()
    page.state_session_capacity = 3
    holder.set_blocks(page)
    first = holder["first"]
    for number in range(2 * sessions.STRANGERS):
        assert holder[f"invented {number}"] is holder[f"invented {number}"]
    late = holder["late"]
    assert holder["first"] is first and holder["late"] is late
    assert len(holder.session_data) == sessions.STRANGERS + 2 == len(holder.time_last_used)
    assert "invented 0" not in holder and f"invented {number}" in holder
    assert not sessions.idle(page, 3600)
    assert set(sessions.idle(page, -1)) == set(holder.session_data)
    with gr.Blocks() as usual:
        pass
    usual.state_session_capacity = 1
    other = state_holder.StateHolder()
    other.set_blocks(usual)
    assert other["a"] and other["b"] and "a" not in other  # gradio's own way elsewhere


def test_tripwire_waiting_room(page):
    queue = page._queue
    event = source(queueing.Event.__init__)
    relied_on(
        "waiting_room",
        parameters(queueing.Queue.push) == ["self", "body", "request", "username"]
        and "_queue.push(" in source(routes)
        and "self._queue.start()" in source(gr.Blocks.run_startup_events)
        and "event_id" in parameters(queueing.Queue.clean_events)
        and "job.alive = False" in source(queueing.Queue.clean_events)
        and "if event.alive" in source(queueing.Queue.process_events)
        and {"event_ids_to_events", "event_queue_per_concurrency_id", "pending_event_ids_session"}
        | {"pending_messages_per_session"}
        <= set(vars(queue))
        and all(f"self.{name}" in event for name in ("session_hash", "request", "enqueue_time")),
        "the queue holds its events otherwise",
    )
    waiting_room.apply(page, Limits(), Listeners())
    assert queue.push.__module__ == queue.start.__module__ == waiting_room.__name__


def test_tripwire_mcp_tools(page):
    setup = source(routes.App.create_app) + source(mcp_tools._SETUP)
    relied_on(
        "mcp_tools",
        parameters(mcp_tools._SETUP) == ["blocks", "app_kwargs", "mcp_server"]
        and "App.setup_mcp_server(blocks, app_kwargs, mcp_server)" in setup
        and "gradio.mcp.GradioMCPServer(blocks)" in setup
        and "PredictBodyInternal(**body.model_dump(), request=request)" in source(routes)
        and "if not simple_format:" in source(gr.Blocks.handle_streaming_diffs)
        and "queue/join" in source(route_utils.get_api_call_path),
        "its MCP server is made, or a call joins the queue, otherwise",
    )
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    import gradio.mcp

    made = gradio.mcp.GradioMCPServer  # this page's own where one was built before
    server = next(each for each in made.__mro__ if each.__module__ == gradio.mcp.__name__)
    kept = ("tool_to_endpoint", "get_block_fn_from_endpoint_name", "get_fn_description")
    relied_on(
        "mcp_tools",
        all(f"self.{name}" in source(server) for name in kept)
        and "self.mcp_server = self.create_mcp_server()" in source(server)
        and "stateless=True" in source(server),
        "its MCP server knows its tools otherwise",
    )
    plain = mcp_tools._with_tools(server)
    assert issubclass(plain, server) and mcp_tools._with_tools(plain) is plain


def test_a_page_without_tools_of_its_own_serves_gradio_s():
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    import gradio.mcp

    def echo(text: str = "") -> str:
        return text

    with gr.Blocks() as blocks:
        gr.api(echo, api_name="echo")
    made = mcp_tools._with_tools(gradio.mcp.GradioMCPServer)(blocks)
    assert made.mcp_server.name and list(made.tool_to_endpoint.values()) == ["/echo"]


def waiting_events(page, sessions_and_ages):
    """Events in the page's queue, as if they had been pushed so many seconds ago."""
    import time

    fn = handler_of(page)
    fn.concurrency_id = "model"
    page._queue.create_event_queue_for_fn(fn)
    events = []
    for session, age_s in sessions_and_ages:
        event = queueing.Event(session, fn, SimpleNamespace(client=None), None)
        event.enqueue_time = time.monotonic() - age_s
        page._queue.event_ids_to_events[event._id] = event
        page._queue.pending_event_ids_session.setdefault(session, set()).add(event._id)
        page._queue.event_queue_per_concurrency_id["model"].queue.append(event)
        events.append(event)
    return events


def test_what_nobody_listens_for_is_taken_out_and_forgotten(page):
    listeners, tidied = Listeners(), []
    limits = Limits(unheard_s=5)
    waiting_room.apply(page, limits, listeners, lambda s, busy: tidied.append((s, set(busy))))
    queue = page._queue
    listeners.began("heard")
    silent, heard, new = waiting_events(page, [("silent", 9), ("heard", 9), ("new", 1)])
    running = waiting_events(page, [("runs", 9)])[0]
    queue.event_queue_per_concurrency_id["model"].queue.remove(running)
    queue.active_jobs = [[running]]
    awaited(queue.sweep_once())
    assert queue.event_queue_per_concurrency_id["model"].queue == [heard, new]
    assert silent._id not in queue.event_ids_to_events and not running.alive and heard.alive
    assert tidied == [(waiting_room.KEPT * 5, {"heard", "new", "runs"})]


def test_more_than_a_visitor_may_have_waiting_is_refused_before_it_waits(page):
    limits = Limits(session_queue=2)
    waiting_room.apply(page, limits, Listeners())
    waiting_events(page, [("one", 1), ("one", 1)])
    fn = handler_of(page)
    body = SimpleNamespace(fn_index=fn._id, session_hash="one")
    with pytest.raises(HTTPException) as refused:
        awaited(page._queue.push(body, SimpleNamespace(client=None), None))
    assert refused.value.status_code == 429 and "2 requests of yours" in refused.value.detail
    assert len(page._queue.event_ids_to_events) == 2


def test_tripwire_upload_sets(page):
    relied_on(
        "upload_sets",
        any(paths is page.upload_file_set for paths in page.temp_file_sets)
        and "blocks.upload_file_set.update(" in source(routes),
        "uploads are collected otherwise",
    )
    arrived = []
    before = len(page.temp_file_sets)
    forget = upload_sets.apply(page, arrived.append)
    page.upload_file_set.update(["a/x.png"])
    page.upload_file_set.update(["a/x.png", "b/y.png"])
    assert sorted(arrived) == ["a/x.png", "a/x.png", "b/y.png"]
    assert len(page.temp_file_sets) == before
    assert any(paths is page.upload_file_set for paths in page.temp_file_sets)
    image = next(block for block in page.blocks.values() if isinstance(block, gr.Image))
    relied_on("upload_sets", isinstance(image.keep_in_cache, set), "Image.keep_in_cache")
    assert upload_sets.is_upload(page, image, "a/x.png")
    image.keep_in_cache.add("b/y.png")
    assert not upload_sets.is_upload(page, image, "b/y.png")
    forget("a/x.png")
    assert not upload_sets.is_upload(page, image, "a/x.png")


def test_tripwire_update_marks():
    value = {"drop": [1, 2], "__type__": "update"}
    relied_on("update_marks", utils.is_prop_update(value), "the mark of updates is another one")
    assert update_marks.apply(value) == {"drop": [1, 2]}
    assert update_marks.apply([1]) == [1] and update_marks.apply(None) is None


# -------------------------------------------------------------- relied on without a patch
def test_launch_need_not_look_for_its_own_page():
    """`launch_options` passes `_frontend=False`: on a busy machine the page answers too late."""
    launch = source(gr.Blocks.launch)
    relied_on("__init__", "if _frontend and not networking.url_ok" in launch, "launch(_frontend)")


def test_an_event_has_its_data_as_attributes():
    event = gr.EventData(None, {"x": 0.25, "data": [1, 2]})
    relied_on("__init__", event.x == 0.25 and event.data == [1, 2], "gr.EventData.x")
    with pytest.raises(AttributeError):
        event.y  # noqa: B018


@pytest.mark.parametrize(
    "name",
    [
        "plain.png",
        "with space (1).jpeg",
        "über größe 猫.webp",
        'a<b>c:"d"|e?f*.png',
        "`rm`$x!{}.png",
        "..",
        "...",
        "#.txt",
        "<>.png",
        ".png",
        "trailing. .",
        "CON.png",
        "com1.tar.gz",
        "x" * 300 + ".png",
        "猫" * 100 + ".png",
        "short." + "e" * 300,
        "",
    ],
)
def test_a_list_names_uploads_as_gradio_stores_them(name):
    """`service.calibration.uploaded_name` is written without gradio, to the same effect."""
    from gradio_client.utils import strip_invalid_filename_characters

    relied_on("__init__", uploaded_name(name) == strip_invalid_filename_characters(name), name)


def test_the_patches_load_without_gradio():
    """`stubs` comes before gradio's first import."""
    import subprocess

    code = (
        "import sys, types; sys.modules['svl_core.ui'] = ui = types.ModuleType('ui');"
        f" ui.__path__ = [{str(ROOT / 'svl_core' / 'ui')!r}];"
        " from svl_core.ui.gradio_patches import PATCHES, environment, stubs, update_marks;"
        " print('gradio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_a_page_puts_every_patch_in_force(tiny):
    """`build` calls them all."""
    from svl_core.ui import build

    page = build(tiny)
    assert gr.Image.preprocess.__module__ == undecoded_images.__name__
    assert page.preprocess_data.__module__ == inputs.__name__
    assert page.postprocess_data.__module__ == skipped_outputs.__name__
    assert isinstance(page.upload_file_set, upload_sets.ReportingSet)
    assert isinstance(page._queue.sleep_when_free, unpolled.Pause)
    assert utils.MatplotlibBackendMananger is nullcontext
    reads = inspect.getclosurevars(page.preprocess_data).nonlocals["original"]
    writes = inspect.getclosurevars(page.postprocess_data).nonlocals["original"]
    assert {reads.__module__, writes.__module__} == {plain_values.__name__}
    assert isinstance(state_holder.SessionState(page), sessions.LeanSession)
    assert page._queue.push.__module__ == waiting_room.__name__
    plain = SimpleNamespace(default_config=page.default_config, blocks={})
    assert not isinstance(state_holder.SessionState(plain), sessions.LeanSession)
