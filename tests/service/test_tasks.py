"""Long work: updates, errors, cancellation, isolation of sessions; the bounded store; background
loading.
"""

import threading
import time

import pytest

from svl_core.errors import Cancelled, InputError
from svl_core.service import tasks
from svl_core.service.stores import BoundedStore, Models
from svl_core.service.tasks import in_percent, paced


def test_emits_then_result():
    jobs = tasks.Jobs()
    seen = list(tasks.run(lambda task: task.emit(1) or 2, jobs, "a"))
    assert [s for s in seen if s is not None] == [1, 2]
    assert jobs.cancel("a") == 0  # nothing left behind


def test_updates_that_come_too_soon_go_as_one():
    """The first at once, the others a pace later, together; the result does not wait."""
    now = [0.0]
    held = tasks.Held(0.1, clock=lambda: now[0])

    def due():
        return list(held.due())

    held.add({"a": 1})
    assert due() == [{"a": 1}]
    held.add({"a": 2, "b": 2})
    held.add({"a": 3})
    assert due() == [] and held.wait_s() == pytest.approx(0.1)
    now[0] = 0.1
    assert due() == [{"a": 3, "b": 2}] and not held
    held.add({"b": 4})
    assert list(held.all()) == [{"b": 4}] and held.wait_s() == tasks.BEAT


def test_nothing_is_lost_where_updates_go_as_one():
    """An update of a control's bounds, say, stays apart from one of its value."""
    held = tasks.Held(0.1, clock=lambda: 0.0)
    held.add({})
    assert list(held.due()) == [{}]
    several = [{"n": {"most": 9, "value": 2}}, {"n": {"value": 3}}, {"n": 4}, 5, {"n": 6}]
    for update in several:
        held.add(update)
    assert list(held.all()) == several
    for update in ({"n": {"value": 3}}, {"n": {"most": 9, "value": 2}}):
        held.add(update)
    assert list(held.all()) == [{"n": {"most": 9, "value": 2}}]


def test_a_busy_server_rests_longer_between_updates():
    now = [0.0]
    held = tasks.Held(0.1, clock=lambda: now[0])

    def took(seconds):
        held.add({})
        for _ in held.all():
            now[0] += seconds
        held.add({})
        return held.wait_s()

    assert took(0.001) == pytest.approx(0.1) and took(0.02) == pytest.approx(0.2)
    assert took(9.0) == tasks.BEAT  # a second, but whether the task was stopped is looked at
    now[0] += 0.9
    assert list(held.due()) == []
    now[0] += 0.11
    assert list(held.due()) == [{}]


def test_a_paced_task_hands_over_everything_in_order():
    def work(task):
        for k in range(50):
            task.emit({"k": k, f"k{k}": k})
        return {"done": True}

    seen = [update for update in tasks.run(work, tasks.Jobs(), "a", pace_s=60.0) if update]
    assert seen[0] == {"k": 0, "k0": 0} and len(seen) == 2
    last = {f"k{k}": k for k in range(1, 50)}
    assert seen[1] == {"k": 49, **last, "done": True}

    def fail(task):
        task.emit({"a": 1}), task.emit({"b": 2})
        raise KeyError("x")

    failing = tasks.run(fail, tasks.Jobs(), "a", pace_s=60.0)
    assert [next(failing), next(failing)] == [{"a": 1}, {"b": 2}]
    with pytest.raises(KeyError):
        next(failing)


def test_errors_reach_the_caller():
    def fail(task):
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(tasks.run(fail, tasks.Jobs(), "a"))


def test_cancel_frees_the_page_even_when_the_work_is_deaf():
    jobs, release = tasks.Jobs(), threading.Event()
    running = tasks.run(lambda task: release.wait(20), jobs, "a")
    assert next(running) is None
    assert jobs.cancel("b") == 0 and next(running) is None  # another session's Stop does nothing
    begin = time.time()
    assert jobs.cancel("a") == 1
    with pytest.raises(Cancelled):
        next(running)
    assert time.time() - begin < 1
    release.set()


def test_closing_the_generator_sets_cancel():
    seen = []
    running = tasks.run(
        lambda task: seen.append(task.cancel) or task.cancel.wait(20), tasks.Jobs(), "a"
    )
    next(running)
    running.close()
    assert seen[0].is_set()


def test_time_ends_the_work_though_nobody_waits_for_it():
    ended = threading.Event()
    running = tasks.run(
        lambda task: task.cancel.wait(20) and ended.set(), tasks.Jobs(), "a", seconds=0.05
    )
    next(running)  # and never again: the visitor is gone without a word
    assert ended.wait(5)
    with pytest.raises(InputError, match="longer than 0 s"):
        list(tasks.run(lambda task: threading.Event().wait(20), tasks.Jobs(), "a", seconds=0.05))
    never = tasks.Deadline()
    assert not never.is_set() and not never.wait(0.01)
    never.set()
    assert never.wait() and isinstance(never.reason(), Cancelled)


def test_bounded_store_drops_the_least_recently_used():
    kept = BoundedStore(2)
    kept.put("a", 1), kept.put("b", 2), kept.get("a"), kept.put("c", 3)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)
    small = BoundedStore(9, size=10)
    small.put("a", 1, 6), small.put("b", 2, 6)
    assert small.get("a") is None and small.get("b") == 2
    small.put("huge", 3, 99)
    assert small.get("huge") == 3  # what is in use is kept even where it is too large


def test_models_load_once_and_forget_failures():
    calls = []

    def load(name):
        calls.append(name)
        if len(calls) == 1:
            raise OSError("no network")
        return name.upper()

    models = Models("first", load, capacity=1)
    with pytest.raises(OSError):
        models.request("a").result(5)
    assert not models.ready("a")
    assert models.request("a").result(5) == "A" and models.ready("a")
    assert models.request("a") is models.request("a") and calls == ["a", "a"]
    models.request("first").result(5), models.request("b").result(5)
    assert not models.ready("a") and models.ready("first")  # the first model is never evicted


def test_time_left_is_told_once_the_pace_is_known():
    now, said = [100.0], []
    tell = paced(
        lambda share, text="": said.append((text, share)), tasks.Pace(clock=lambda: now[0])
    )

    def at(seconds, share):
        now[0] = 100.0 + seconds
        tell(share, "Sweeping")
        return said[-1][0].removeprefix("Sweeping")

    assert at(0, 0.0) == "" and at(1.9, 0.5) == ""  # too early to tell
    assert at(4, 0.04) == "" and at(4, 0.04) == ""  # a share that fell: another piece, from here on
    assert at(7, 0.08) == ""  # long enough, but only four hundredths are done
    assert at(8, 0.24) == "; about 15 s left"  # 0.20 in 4 s, 0.76 to go
    assert at(304, 0.54) == "; about 5 min left"  # 0.50 in 300 s, 0.46 to go
    assert (
        at(310, None) == "" and at(320, 0.9) == "" and said[-1] == ("Sweeping", 0.9)
    )  # unknown in between: a piece of its own
    assert at(324, 0.96) == "; about 3 s left" and at(325, 1.0) == ""
    assert tasks.duration(40) == "40 s"


def test_reports_are_updates_with_shares_of_the_whole():
    """A task's reports, those of its parts, and how a section shows them in a place of its own."""

    def work(task):
        task.report(0.5, "Half")
        task.part(0.5, 1.0).report(0.5, "Three quarters")
        in_percent(task.part(0.0, 0.5), "Reading").report(0.5, "sample 3 of 6")
        in_percent(task, "Reading").report(None, "anything")
        task.silent().report(0.1, "unheard")
        task.showing(lambda text, share: {"note": f"{text} {share}"}).report(0.25, "Elsewhere")
        return {"done": True}

    seen = [update for update in tasks.run(work, tasks.Jobs(), "a") if update is not None]
    assert seen == [
        {"doing": ("Half", 0.5)},
        {"doing": ("Three quarters", 0.75)},
        {"doing": ("Reading … 50 %", 0.25)},
        {"doing": ("Reading …", None)},
        {"note": "Elsewhere 0.25"},
        {"done": True},
    ]
    shown = tasks.run(work, tasks.Jobs(), "a", show=lambda text, share: {"status": text})
    assert {"status": "Half"} in list(shown)


def test_a_cancelled_task_checks_itself():
    deadline = tasks.Deadline()
    task = tasks.Task.of(lambda update: None, deadline)
    task.check()
    deadline.set()
    assert task.cancelled and task.part(0.5, 1.0).cancelled
    for run in (task, task.part(0.0, 0.5), in_percent(task, "Reading"), task.silent()):
        with pytest.raises(Cancelled):
            run.step(0.5, "more")


def test_short_work_that_takes_too_long_is_interrupted():
    def endless():
        with tasks.within(0.3):
            while True:
                sum(range(100))

    with pytest.raises(InputError, match="takes longer than 0 s"):
        endless()
    with tasks.within(60):
        assert sum(range(10)) == 45
    with pytest.raises(KeyError), tasks.within(60):
        raise KeyError
    assert not tasks._WATCH._until
