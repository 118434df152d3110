"""Who waits, whose turn it is, and who still listens."""

import time
from dataclasses import replace

from svl_core.service.limits import PUBLIC
from svl_core.service.waiting import Listeners, Waiting, address_of, in_turn, refusal

LIMITS = replace(
    PUBLIC,
    queue=6,
    address_queue=3,
    session_queue=2,
    clicks=5,
    address_clicks=4,
    session_clicks=3,
)


def heavy(session, address):
    return Waiting(session, address, heavy=True)


def test_one_session_one_address_and_everybody_are_bounded_apart():
    of_session = [heavy("a", "x")] * 2
    assert refusal(LIMITS, heavy("a", "x"), of_session[:1]) is None
    status, sentence = refusal(LIMITS, heavy("a", "x"), of_session)
    assert status == 429 and "2 requests of yours" in sentence and "press Stop" in sentence
    assert refusal(LIMITS, heavy("b", "x"), of_session) is None
    status, sentence = refusal(LIMITS, heavy("c", "x"), [*of_session, heavy("b", "x")])
    assert status == 429 and "3 requests from your address" in sentence
    crowd = [heavy(str(k), str(k)) for k in range(6)]
    assert refusal(LIMITS, heavy("a", "x"), crowd)[0] == 503


def test_a_click_is_never_refused_for_long_work():
    crowd = [heavy("a", "x")] * 100
    assert refusal(LIMITS, Waiting("a", "x", heavy=False), crowd) is None
    clicks = [Waiting("a", "x", heavy=False)] * 3
    assert refusal(LIMITS, Waiting("a", "x", heavy=False), clicks)[0] == 429
    assert refusal(LIMITS, heavy("a", "x"), clicks) is None


def test_every_address_has_its_turn():
    """Five of one address came first; the second address's first one is next but one."""
    waiting = [heavy(f"s{k}", "x") for k in range(5)] + [heavy("v", "y"), heavy("v", "y")]
    assert in_turn(waiting) == [0, 5, 1, 6, 2, 3, 4]
    assert in_turn([heavy(str(k), "x") for k in range(4)]) == [0, 1, 2, 3]
    assert in_turn([]) == []


def test_an_address_stands_for_one_visitor():
    assert address_of("198.18.0.1") == "198.18.0.1" and address_of(None) == ""
    assert address_of("2001:db8:0:1::5") == address_of("2001:db8:0:1:ffff::") != "2001:db8:0:1::5"
    assert address_of("2001:db8:0:2::5") != address_of("2001:db8:0:1::5")
    assert address_of("testclient") == "testclient"


def test_silence_is_counted_from_the_last_stream():
    listeners, long_ago = Listeners(), time.monotonic() - 100
    assert listeners.silent_s(["s", "e"], long_ago) >= 100
    listeners.began("e")
    listeners.began("e")
    assert listeners.silent_s(["s", "e"], long_ago) == 0
    listeners.ended("e")
    assert listeners.silent_s(["s", "e"], long_ago) == 0
    listeners.ended("e")
    assert 0 <= listeners.silent_s(["s", "e"], long_ago) < 50
    assert listeners.silent_s(["other"], long_ago) >= 100
    listeners.forget(older_s=0)
    assert listeners.silent_s(["s", "e"], long_ago) >= 100 and not listeners._streams
