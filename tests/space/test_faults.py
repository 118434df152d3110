"""What goes wrong around the page: full disk, damaged or half-fetched models, no Hub.

One sentence, and the page's own model still serves.
"""

import errno
import shutil
from pathlib import Path

import pytest
from gradio import route_utils
from tiny import LAYERS, tiny_llava
from visitor import Visitor

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import loading
from svl_core.service import errors
from svl_core.service.ledger import Ledger
from svl_core.service.limits import PUBLIC

OFFERED = "HuggingFaceTB/SmolVLM-256M-Instruct"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def still_serves(visitor, path):
    assert (
        visitor.ask(path, "what is this?", model="tiny")["ok"]
        and visitor.compare(LAYERS, [1], answer_length=2)["ok"]
    )


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The Hub's snapshot of a model, as the cache holds it: links to blobs; and nothing else can be
    had.
    """
    import huggingface_hub

    folder, blobs = tmp_path / "snapshots" / COMMIT, tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "whole", max_shard_size="200KB")
    processor.save_pretrained(tmp_path / "whole")
    for file in (tmp_path / "whole").iterdir():
        shutil.copy(file, blobs / file.name)
        (folder / file.name).symlink_to(blobs / file.name)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda name, file, revision=None: str(folder / file),
    )
    return folder


def hub(monkeypatch, answer):
    import huggingface_hub

    def snapshot_download(name, **options):
        if isinstance(answer, Exception):
            raise answer
        return str(answer())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_a_model_that_ends_too_early_is_fetched_again_or_named(cached, monkeypatch):
    def cut():
        file = sorted(cached.glob("*.safetensors"))[-1]
        blob = file.resolve()
        blob.write_bytes(blob.read_bytes()[:-100])
        return file

    hub(monkeypatch, ConnectionError("no network"))
    assert (
        len(list(cached.glob("*.safetensors"))) > 2
        and svl.load(OFFERED, pickle_weights=False).num_layers == LAYERS
    )
    cut()
    with pytest.raises(InputError, match="only in part in the local cache.*the Hub can be reached"):
        svl.load(OFFERED, pickle_weights=False)

    def whole():
        for file in (cached.parents[1] / "whole").iterdir():
            if not (cached / file.name).exists():
                shutil.copy(file, cached / file.name)
        return cached

    hub(monkeypatch, whole)
    assert svl.load(OFFERED, pickle_weights=False).num_layers == LAYERS
    file = cut()
    assert loading._cut_off(cached) == [file]
    assert svl.load(OFFERED, pickle_weights=False).num_layers == LAYERS, "it was not fetched anew"
    file.unlink()
    file.write_bytes(b"\xff" * 64)
    assert loading._cut_off(cached) == [file]


def test_faults_of_a_model_leave_the_page_as_it_was(public_site, png, monkeypatch, cached):
    visitor = Visitor(public_site[0])
    path = visitor.upload(png)
    for file in cached.glob("*.safetensors"):
        file.resolve().write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")  # whole, and empty
    for answer, says in (
        (ConnectionError("no network"), "only a part of its weights"),
        (lambda: Path("/nowhere"), "no readable model config"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room on the disk"),
    ):
        hub(monkeypatch, answer)
        said = visitor.ask(path, "what is this?", model=OFFERED)
        assert not said["ok"] and said["error"].startswith("Found") and says in said["error"], said[
            "error"
        ]
        still_serves(visitor, path)
    monkeypatch.undo()  # the Hub as the tests have it: out of reach, and nothing in the cache
    said = visitor.ask(path, "what is this?", model=OFFERED)
    assert not said["ok"] and "the Hub cannot be reached" in said["error"]
    still_serves(visitor, path)
    assert visitor.http.get("/health").status_code == 200


def test_a_full_disk_is_named(public_site, png, monkeypatch):
    visitor = Visitor(public_site[0])
    path = visitor.upload(png)
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_room(*args, **options):
        raise full

    with monkeypatch.context() as broken:
        broken.setattr(route_utils, "NamedTemporaryFile", no_room)
        refused = visitor.http.post("/gradio_api/upload", files={"files": ("other.png", png)})
        assert refused.status_code == 507 and refused.json()["detail"] == errors.DISK_FULL
    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", no_room)
        still_serves(visitor, path)
        report = next(
            each
            for each in visitor.config["dependencies"]
            if visitor.ids["report-file"] in each["outputs"]
        )
        visitor.functions["report"] = report
        strip = visitor.strip(LAYERS, [1])
        said = visitor.call("report", visitor.data("report", strip=strip))
        assert not said["ok"] and said["error"] == errors.DISK_FULL, said
    still_serves(visitor, path)
    assert visitor.call("report", visitor.data("report", strip=strip))["ok"]


def test_uploads_stop_before_the_disk_is_full(public_site, png, monkeypatch):
    visitor = Visitor(public_site[0])
    visitor.upload(png)
    monkeypatch.setattr(Ledger, "stored", property(lambda self: PUBLIC.stored_bytes + 1))
    refused = visitor.http.post("/gradio_api/upload", files={"files": ("other.png", png)})
    assert refused.status_code == 507 and refused.json()["detail"] == errors.DISK_FULL


def test_a_page_that_is_slow_to_answer_itself_still_starts(tiny, monkeypatch):
    """gradio gives up after three seconds; a machine that imports torch beside other work may take
    longer.
    """
    from gradio import networking

    from svl_core.ui import build, launch_options

    monkeypatch.setattr(networking, "url_ok", lambda url: False)
    page = build(tiny)
    try:
        page.launch(
            prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options()
        )
        assert Visitor(page.local_url).http.get("/health").status_code == 200
    finally:
        page.close(verbose=False)
