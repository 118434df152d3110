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
    for session in ("program", "page", "stranger"):
        assert visits.opened(session, "198.18.0.1")
    visits.dropped("program")
    assert ended == ["program"] and not visits.is_open("program")
    visits.heard("page")
    visits.dropped("page")
    assert ended == ["program"] and visits.is_open("page")  # a phone that sleeps
    visits.closed("page")
    visits.closed("page")
    assert ended == ["program", "page"]
    visits.heard("stranger")
    visits.closed("stranger")
    assert ended == ["program", "page"] and not visits._heard and not visits._dropped


def test_a_silent_page_is_waited_for_and_one_that_is_heard_again_stays(ended):
    visits = Visits(ended.append, lambda session: True, away_s=0.4)
    for session in ("silent", "awake"):
        visits.opened(session, "198.18.0.1")
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
    assert not visits.is_open("silent") and not visits.is_open("awake")


def test_only_a_page_that_connected_is_heard_and_pages_are_bounded(ended):
    visits = Visits(ended.append, lambda session: True, away_s=60, most=3, most_of_one=2)
    visits.heard("invented")
    visits.closed("invented")
    assert not ended and not visits._heard
    assert visits.opened("a", "198.18.0.1") and visits.opened("b", "198.18.0.1")
    assert visits.opened("a", "198.18.0.1")  # connected anew
    assert not visits.opened("c", "198.18.0.1") and visits.opened("c", "198.18.0.2")
    assert not visits.opened("d", "198.18.0.3")
    visits.dropped("a")
    assert visits.opened("d", "198.18.0.3") and not visits.is_open("a")
