"""A strip that comes back from a browser is believed where this server made it."""

import time

import pytest

from svl_core.errors import InputError
from svl_core.ui.state import seal
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import strip_value
from svl_core.ui.steps.layers import pick_block
from svl_core.ui.wiring import STRIP, believed, ordered

STRIP_MADE = strip_value([0, 1, 2, 3, 5], [2, 1, 3], [0, 4], [2], blocks=[[], [2], [1, 2]])


def test_only_the_layers_that_go_may_change():
    sent = seal.sealed(STRIP_MADE)
    assert seal.is_genuine(sent) and seal.is_genuine({**sent, "drop": [1, 3]})
    assert seal.is_genuine(dict(reversed(sent.items())))  # a browser may order keys otherwise
    for name, other in (("ids", [0, 1]), ("ranking", [1, 2, 3]), ("protected", []), ("more", 1)):
        assert not seal.is_genuine({**sent, name: other}), name
    for forged in (None, [], {}, STRIP_MADE, {**sent, seal.SEAL: 5}, {**sent, seal.SEAL: "ü"}):
        assert not seal.is_genuine(forged)


def test_what_is_dropped_is_checked():
    assert seal.dropped({"drop": [3, 1, 3]}, 5, [0, 4]) == [1, 3]
    for drop in ([5], [-1], [0], [True], [1.0], ["1"], [None], [[1]], [10**400]):
        with pytest.raises(InputError, match="expected one of 0 to 4 that is not protected"):
            seal.dropped({"drop": drop}, 5, [0, 4])
    for drop in (None, "1", {1: 1}, [1] * 6):
        with pytest.raises(InputError, match="list of at most 5 layers"):
            seal.dropped({"drop": drop}, 5, [0, 4])


def test_a_strip_goes_out_sealed_and_comes_back_as_it_was(page):
    sent = ordered(page, pick_block, [STRIP], {STRIP: STRIP_MADE})
    assert believed(page, sent, None, None) == STRIP_MADE
    moved = believed(page, {**sent, "drop": [3, 1]}, None, None)
    assert moved == {**STRIP_MADE, "drop": [1, 3]}
    assert believed(page, None, None, None) is None
    with pytest.raises(InputError, match="press Analyze again"):
        believed(page, {**STRIP_MADE, "ids": [0]}, None, None)


def test_a_forged_strip_is_made_anew_from_the_analysis(page, analysed):
    layers = len(analysed["strip"]["ids"])
    forged = {"ids": list(range(20_000)), "ranking": list(range(20_000)), "protected": []}
    begun = time.process_time()
    made = believed(page, {**forged, "drop": [1]}, analysed["state"], Settings())
    assert time.process_time() - begun < 5
    assert made["ids"] == analysed["strip"]["ids"] and made["drop"] == [1]
    assert made["protected"] == [0, layers - 1]
    assert sorted(made["ranking"]) == list(range(1, layers - 1))
    for drop in ([0], [layers], list(range(20_000))):
        with pytest.raises(InputError):
            believed(page, {**forged, "drop": drop}, analysed["state"], Settings())
