"""Entries of transformers' mapping without a row of their own run the whole line, as the table of
states says.
"""

import json

import pytest
import stand_in_torchvision
import state_table
import transformers

STORED = json.loads(state_table.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.skipif(
    not transformers.__version__.startswith("5.24."), reason="another version's mapping"
)
def test_every_entry_of_the_mapping_is_in_a_state():
    assert set(STORED) == set(state_table.MAPPING)
    assert {state for state, _ in STORED.values()} <= set(state_table.STATES)
    page = state_table.PAGE.read_text(encoding="utf-8")
    assert state_table.table(STORED) in page


@pytest.mark.slow
@pytest.mark.parametrize("entry", state_table.ZOO)
def test_an_entry_is_in_the_state_that_the_table_says(entry):
    state, how = STORED[entry]
    if stand_in_torchvision.INSTALLED:
        how = how.replace(f"; {stand_in_torchvision.READ_WITH}", "")
    assert state_table.run(entry, state_table.ZOO[entry]) == (state, how)
