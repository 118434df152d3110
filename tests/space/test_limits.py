"""Limits: values, their sentences, and that the public page holds each of them."""

import io
import time
from dataclasses import replace

import pytest
from PIL import Image
from tiny import LAYERS
from visitor import Visitor

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.images import open_image
from svl_core.recipe import OWN
from svl_core.service.limits import PUBLIC, Limits, from_environment
from svl_core.service.stores import Analysis, Models, picker
from svl_core.service.uploads import Holdings, upload_folder
from svl_core.ui.gradio_patches.upload_sets import ReportingSet
from svl_core.ui.handlers import Desk
from svl_core.ui.sections import calibration
from svl_core.ui.state.settings import Settings


def test_public_is_never_looser_than_home():
    home = Limits()
    for name, value in vars(PUBLIC).items():
        assert value <= getattr(home, name), name
    assert not (PUBLIC.any_model or PUBLIC.pickle_weights or PUBLIC.export or PUBLIC.details)
    assert len(PUBLIC.lines()) == len(vars(PUBLIC))


def test_environment_changes_one_limit():
    assert from_environment(True, {"SVL_LIMIT_NEW_TOKENS": "9"}).new_tokens == 9
    assert from_environment(True, {"SVL_LIMIT_ANY_MODEL": "1"}).any_model is True
    assert from_environment(False, {}) == Limits() and from_environment(True, {}) == PUBLIC
    for bad in (
        {"SVL_LIMIT_QUEUE": "many"},
        {"SVL_LIMIT_QUEUE": "0"},
        {"SVL_LIMIT_REQUEST_S": "nan"},
    ):
        with pytest.raises(InputError, match="expected"):
            from_environment(True, bad)


def test_strangers_export_nothing_and_sweep_little():
    with pytest.raises(InputError, match="export"):
        PUBLIC.check_export()
    Limits().check_export()
    from_environment(True, {"SVL_LIMIT_EXPORT": "1"}).check_export()
    PUBLIC.check("sweep_points", PUBLIC.sweep_points, "pruned models in the sweep")
    with pytest.raises(InputError, match="65 pruned models in the sweep; expected at most 64"):
        PUBLIC.check("sweep_points", PUBLIC.sweep_points + 1, "pruned models in the sweep")


@pytest.mark.parametrize(
    "name",
    [
        "someone/else",
        "/etc",
        "../assets/demo_lvlm",
        "http://127.0.0.1/x",
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
    ],
)
def test_strangers_choose_from_the_list_only(name):
    with pytest.raises(InputError, match="list") as caught:
        PUBLIC.check_model(name, "demo")
    assert name not in str(caught.value)
    Limits().check_model(name, "demo")
    assert name not in {value for _, value in picker("demo", PUBLIC)}


def test_pixels_are_counted_before_decoding():
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    with pytest.raises(InputError, match="pixels"):
        open_image(bomb.getvalue(), max_pixels=PUBLIC.image_pixels, max_bytes=PUBLIC.image_bytes)


def test_what_two_hold_goes_with_the_second(tmp_path):
    forgotten = []
    holdings = Holdings(forgotten.append, lambda: tmp_path)
    (tmp_path / "a").mkdir()
    file, foreign = tmp_path / "a" / "x.png", tmp_path.parent / "keep.txt"
    file.write_bytes(b"x")
    foreign.write_bytes(b"x")
    holdings.hold("one", file, foreign, "key")
    holdings.hold("two", file, "key")
    holdings.leave("one")
    assert file.exists() and not forgotten
    holdings.leave("two")
    assert not file.exists() and forgotten == ["key"] and foreign.exists() and not len(holdings)


def test_a_picture_brought_again_waits_for_its_second_visitor(tmp_path):
    """Equal pictures have one path: the first visitor leaves while the second, with the same
    picture, still queues.
    """
    holdings, file = Holdings(lambda key: None, lambda: tmp_path), tmp_path / "a" / "x.png"
    file.parent.mkdir()
    file.write_bytes(b"x")
    uploads = ReportingSet(holdings.arrived)
    uploads.update([str(file)])
    holdings.hold("one", file)
    uploads.update([str(file)])  # the second visitor's upload
    holdings.hold("one", file)  # another question about the same picture
    holdings.leave("one")
    assert file.exists()
    holdings.hold("two", file)
    holdings.leave("two")
    assert not file.exists()


def test_a_picture_nobody_came_back_for_goes_after_a_while(tmp_path, monkeypatch):
    holdings, files = (
        Holdings(lambda key: None, lambda: tmp_path),
        [tmp_path / name / "x.png" for name in "ab"],
    )
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"x")
        holdings.arrived(str(file))
        holdings.arrived(str(file))
    holdings.hold("one", files[0])
    holdings.leave("nobody")
    assert all(file.exists() for file in files)
    monkeypatch.setattr("svl_core.service.uploads.WAITS_S", -1)
    for _ in range(2):  # an upload each
        holdings.leave("nobody")
    assert [file.exists() for file in files] == [True, False]
    holdings.leave("one")
    assert not files[0].exists()


def test_large_pictures_are_counted_where_they_are_kept(tiny, image, tmp_path):
    """Sets in pixels before the model reads them, analyses in the bytes of their pictures too."""
    paths = []
    for k in range(3):
        paths.append(str(tmp_path / f"{k}.png"))
        image.save(paths[-1])
    desk, size = (
        Desk(Models(tiny), frozenset(), replace(PUBLIC, set_pixels=2 * image.width * image.height)),
        image.width * image.height,
    )
    own = calibration.brought(desk, paths, "what?", None)["own"]
    with pytest.raises(InputError, match=f"{3 * size:,} pixels"):
        desk.samples("tiny", OWN, None, Settings(calibration="own", own=own))
    (tmp_path / "list.jsonl").write_text('{"image": "0.png", "prompt": "' + "x" * 3000 + '"}\n')
    own = calibration.brought(desk, [*paths, str(tmp_path / "list.jsonl")], "what?", None)["own"]
    with pytest.raises(InputError, match="characters in a prompt of the set"):
        desk.samples("tiny", OWN, None, Settings(calibration="own", own=own))
    small, large = (tiny.encode(picture, "what?") for picture in (image, image.resize((600, 400))))
    traces = [svl.trace(tiny, [sample]) for sample in (small, large)]
    found = [
        Analysis("tiny", (sample,), trace, None).nbytes
        for sample, trace in zip((small, large), traces)
    ]
    assert found[1] - found[0] == 3 * (600 * 400 - size)


def test_uploads_of_a_killed_server_are_gone_at_the_next_start(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = upload_folder(7860)
    (folder / "a").mkdir()
    (folder / "a" / "photo.png").write_bytes(b"x")
    assert (
        upload_folder(7860) == folder
        and not list(folder.iterdir())
        and folder.stat().st_mode & 0o777 == 0o700
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "keep.txt").write_bytes(b"x")
    (tmp_path / "svl-uploads-1").symlink_to(tmp_path / "elsewhere")
    assert (
        upload_folder(1) != tmp_path / "svl-uploads-1"
        and (tmp_path / "elsewhere" / "keep.txt").exists()
    )


@pytest.mark.parametrize(
    "changes, prompt, sentence",
    [
        ({"answer_length": 65}, "what is this?", "tokens as the answer"),
        ({}, "x" * 2001, "characters in the prompt"),
        ({}, "x" * 1_000_000, "characters in the prompt"),
        ({"model": "someone/else"}, "what is this?", "not in the list"),
    ],
)
def test_the_page_says_which_limit_was_hit(public_site, png, changes, prompt, sentence):
    visitor = Visitor(public_site[0])
    said = visitor.ask(visitor.upload(png), prompt, **changes)
    assert not said["ok"] and sentence in said["error"]


def test_a_request_that_takes_too_long_is_stopped(public_site, tiny, png, monkeypatch):
    """The sentence comes, and the model really rests: in the middle of an answer."""
    desk, passes = public_site[1].desk, []
    visitor = Visitor(public_site[0])
    assert visitor.ask(visitor.upload(png), "what is slow?")["ok"]

    def slow(module, args):
        passes.append(time.monotonic())
        time.sleep(0.1)

    monkeypatch.setattr(desk.workspace, "limits", replace(PUBLIC, request_s=1.5, new_tokens=64))
    handle = tiny.layers[1].register_forward_pre_hook(slow)
    try:
        said = visitor.compare(LAYERS, [3], answer_length=60, compensation="none")
        assert not said["ok"] and "longer than 2 s" in said["error"] and 3 < len(passes) < 60
        time.sleep(0.5)
        before = len(passes)
        time.sleep(0.5)
        assert len(passes) == before
    finally:
        handle.remove()
    monkeypatch.undo()
    assert visitor.compare(LAYERS, [3], answer_length=2)["ok"]


def test_out_of_memory_frees_everything_and_the_page_stays(public_site, png, monkeypatch):
    import svl_core as svl

    desk, visitor = public_site[1].desk, Visitor(public_site[0])
    path = visitor.upload(png)
    assert visitor.ask(path, "before")["ok"] and len(desk.analyses)

    def full(*args, **options):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(svl, "trace", full)
        said = visitor.ask(path, "during")
    assert "memory" in said["error"] and not len(desk.analyses)
    assert visitor.ask(path, "after")["ok"]


def test_health_tells_the_model_and_nothing_of_visitors(public_site):
    said = Visitor(public_site[0]).http.get("/health")
    assert said.status_code == 200 and said.json()["model"] == {"name": "tiny", "state": "ready"}
    assert set(said.json()) == {
        "status",
        "model",
        "loaded",
        "sessions",
        "analyses",
        "uptime_s",
        "started",
    }
