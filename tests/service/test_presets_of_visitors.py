"""What a preset sets for a model, by the calibration sets that it can have."""

from dataclasses import replace

import pytest

import svl_core as svl
from svl_core.recipe import AUTO, DEMO, OWN, THIS
from svl_core.service.presets import contested_preset, matches, preset_values
from svl_core.service.settings import VisitorSettings as Settings

KNOWS = frozenset({"knows"})
BEST, PUBLISHED = svl.PRESETS["best"], svl.PRESETS["as-published"]


@pytest.mark.parametrize(
    "name, settings, calibration",
    [
        ("knows", Settings(), DEMO),
        ("knows", Settings(calibration=THIS), DEMO),
        ("knows", Settings(own="x"), OWN),
        ("other", Settings(own="x"), OWN),
        ("other", Settings(), THIS),
        ("knows", Settings(calibration=OWN, own="x"), None),  # it ranks on a set already
        ("knows", Settings(calibration=DEMO), None),
    ],
)
def test_a_contest_is_held_on_a_set(name, settings, calibration):
    assert preset_values(BEST, name, KNOWS, settings).get("calibration") == calibration
    assert "calibration" not in preset_values(PUBLISHED, name, KNOWS, settings)


def test_the_size_is_bounded_by_the_page_and_by_the_limits():
    assert preset_values(BEST, "knows", KNOWS, Settings())["calibration_size"] == 256
    assert preset_values(BEST, "knows", KNOWS, Settings(), 128)["calibration_size"] == 128
    assert "calibration_size" not in preset_values(BEST, "other", KNOWS, Settings(own="x"))
    assert "calibration_size" not in preset_values(PUBLISHED, "knows", KNOWS, Settings())


def test_settings_are_recognised_by_every_field_but_the_criterion():
    best = replace(Settings(), **preset_values(BEST, "knows", KNOWS, Settings()))
    for criterion in BEST.criteria:
        assert contested_preset("knows", KNOWS, replace(best, criterion=criterion)) is BEST
    assert contested_preset("knows", KNOWS, replace(best, criterion="svl-last")) is None
    assert contested_preset("knows", KNOWS, replace(best, top_p=0.3)) is None
    assert contested_preset("knows", KNOWS, replace(best, calibration=AUTO)) is None
    assert contested_preset("knows", KNOWS, Settings()) is None  # as published: no rivals
    assert matches({"rank": 4, "criterion": "none"}, Settings(), but="criterion")
    assert not matches({"rank": 5}, Settings())
