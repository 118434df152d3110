"""Uploads and analyses go with the last session that holds them."""

import os

import pytest

from svl_core.service.ledger import BRINGER, Bringer
from svl_core.service.uploads import Holdings, upload_folder


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
    holdings.arrived(str(file))
    holdings.hold("one", file)
    holdings.arrived(str(file))  # the second visitor's upload
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


def test_what_a_cut_off_upload_leaves_is_swept_away(tmp_path):
    holdings = Holdings(lambda key: None, lambda: tmp_path)
    old, new, kept = tmp_path / "tmpold", tmp_path / "tmpnew", tmp_path / "folder" / "picture.png"
    kept.parent.mkdir()
    for file in (old, new, kept):
        file.write_bytes(b"x")
        if file is not new:
            os.utime(file, (0, 0))
    holdings.leave("nobody")
    assert not old.exists() and new.exists() and kept.exists()


def test_what_is_stored_is_counted_as_it_comes_and_goes(tmp_path):
    holdings, file = Holdings(lambda key: None, lambda: tmp_path), tmp_path / "a" / "x.png"
    file.parent.mkdir()
    file.write_bytes(bytes(30))
    token = BRINGER.set(Bringer("198.18.0.1", 9))
    holdings.arrived(str(file))
    BRINGER.reset(token)
    holdings.arrived(str(file))  # an equal one of somebody else's has the same place
    made = tmp_path / "b" / "scene.webp"
    holdings.make("one", "198.18.0.2", made, bytes(12), most=2)
    ledger = holdings.ledger
    assert ledger.stored == 42
    assert ledger.of("198.18.0.1") == (1, 30) and ledger.of("198.18.0.2") == (1, 12)
    holdings.leave("one")
    assert ledger.stored == 30 and not made.parent.exists()


def test_what_came_and_went_untold_is_found_by_counting(tmp_path):
    holdings, file = Holdings(lambda key: None, lambda: tmp_path), tmp_path / "a" / "x.png"
    holdings.make("one", "198.18.0.2", file, bytes(5), most=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "y.png").write_bytes(bytes(7))
    holdings.recount()
    assert holdings.ledger.stored == 12
    file.unlink()
    holdings.recount()  # not so soon again
    assert holdings.ledger.stored == 12
    holdings.ledger.count(tmp_path)
    assert holdings.ledger.stored == 7 and holdings.ledger.of("198.18.0.2") == (0, 0)


def test_a_session_keeps_its_newest_files_only(tmp_path):
    holdings = Holdings(lambda key: None, lambda: tmp_path)
    files = [tmp_path / str(number) / "report.html" for number in range(4)]
    for file in files:
        holdings.make("one", "x", file, b"12", most=2)
    assert [file.exists() for file in files] == [False, False, True, True]
    assert holdings.ledger.stored == 4


def test_a_file_that_finds_no_room_leaves_nothing(tmp_path, monkeypatch):
    from pathlib import Path

    holdings = Holdings(lambda key: None, lambda: tmp_path)

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError):
        holdings.make("one", "x", tmp_path / "a" / "report.html", b"12", most=2)
    assert not list(tmp_path.iterdir()) and not holdings.ledger.stored and not len(holdings)
