"""When a session ends: a closed page at once, a dropped connection once its page has been silent
for a while, a program with its connection.
"""

import time

import pytest

from svl_core.service.visits import Visits


@pytest.fixture
def ended():
    return []


def test_a_program_goes_with_its_connection_and_a_page_when_it_says_so(ended):
    visits = Visits(ended.append, lambda session: session != "stranger", away_s=60)
    visits.dropped("program")
    assert ended == ["program"]
    visits.heard("page")
    visits.dropped("page")
    assert ended == ["program"]  # a phone that sleeps
    visits.closed("page")
    visits.closed("page")
    assert ended == ["program", "page"]
    visits.heard("stranger")
    visits.closed("stranger")
    assert ended == ["program", "page"] and not visits._heard and not visits._dropped


def test_a_silent_page_is_waited_for_and_one_that_is_heard_again_stays(ended):
    visits = Visits(ended.append, lambda session: True, away_s=0.4)
    for session in ("silent", "awake"):
        visits.heard(session)
        visits.dropped(session)
    for _ in range(6):
        assert "awake" not in ended
        visits.heard("awake")
        time.sleep(0.15)
    assert ended == ["silent"]
    until = time.monotonic() + 10
    while "awake" in visits._heard and time.monotonic() < until:
        time.sleep(0.05)
    assert ended == ["silent", "awake"] and visits._timer is None
