"""Calibration sources: what the settings mean for a model, and a visitor's files as a set."""

import pytest

from svl_core.errors import InputError
from svl_core.service import calibration
from svl_core.service.settings import VisitorSettings as Settings


def test_what_a_choice_means_for_a_model():
    def of(name, **changes):
        used = calibration.sources_for(name, {"knows"}, Settings(**changes))
        return used.rank, used.fit

    assert of("knows") == ("this", "demo") and of("other") == ("this", "this")
    assert of("knows", calibration="demo") == ("demo", "demo") and of(
        "other", calibration="demo"
    ) == ("this", "this")
    assert of("other", calibration="own", own="x") == ("own", "own") and of(
        "other", calibration="own"
    ) == ("this", "this")
    assert of("knows", calibration="this") == ("this", "this")
    said = calibration.describe_sources(
        calibration.CalibrationSources("this", "this"), lambda which: 1, "scp"
    )
    assert "share the sample" in said
    own = calibration.CalibrationSources("own", "own")

    def said(shared):
        return calibration.describe_sources(own, lambda which: 3, "scp", shared=shared)

    assert "not among the samples" in said(False) and "share" not in said(False)
    assert "is among the samples" in said(True) and "flatter" in said(True)
    assert "among" not in said(None)  # the samples have not been read


def test_files_become_pairs(own_files):
    paths, listed = own_files
    assert calibration.read_files(paths, "what ?") == tuple((path, "what ?") for path in paths)
    assert calibration.read_files([*paths, listed]) == (
        (paths[1], "how many apples ?"),
        (paths[0], calibration.DEFAULT_PROMPT),
    )
    for wrong, says in (
        ([], "no images"),
        ([listed], "alone"),
        ([paths[2], listed], "own1.png"),
        ([*paths, listed, listed], "2 lists"),
        ([*paths, "x.exe"], "x.exe"),
    ):
        with pytest.raises(InputError, match=says):
            calibration.read_files(wrong)


def test_a_set_that_would_fill_the_memory(tiny, tiny_sample):
    with pytest.raises(InputError, match="use about"):
        calibration.check_size([tiny_sample] * 8, 10**4, 10**4, 4, True)
    calibration.check_size([tiny_sample] * 8, tiny.num_layers, tiny.hidden_size, 4, True)


def test_sets_are_named_by_what_they_hold_and_asked_in_words():
    pairs = (("a.png", "what?"), ("b.png", "where?"))
    names = {calibration.digest(pairs), calibration.digest(pairs[:1]), calibration.digest(())}
    assert len(names) == 3 and "" in names
    assert calibration.words("demo", 32) == "the bundled set (32 scenes)"
    assert [name for _, name in calibration.choices("other", {"knows"})] == ["auto", "this", "own"]
    assert len(calibration.choices("knows", {"knows"})) == 4
    chosen = calibration.describe_sources(
        calibration.CalibrationSources("this", "own"), lambda source: 3, "scp", ranked=False
    )
    assert "your own choice" in chosen and "on your set (3 samples)" in chosen
    none = calibration.describe_sources(
        calibration.CalibrationSources("this", "this"), lambda source: 1, "none"
    )
    assert "nothing is fitted" in none


def test_a_large_bundled_set_is_called_what_it_is():
    assert calibration.words("demo", 256) == "the bundled set (256 scenes and shapes)"
