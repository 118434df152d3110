"""Several processes at one piece of work, one GPU each: the team of those that a launcher started.

`accelerate launch -m svl_core ...` and `torchrun -m svl_core ...` start one command several times
and tell each process its number. Work whose `Run` has this team deals its pieces out (`Run.deal`):
`evaluate` its batches of questions, `sweep` its rows, `ablate` its blocks of layers, a criterion
that runs the model the layers that it tries, `trace_together` its samples.

A piece is what one process does in one go, so that no number depends on how many there are; a row
of a sweep is one, with its fit, which is why rows are dealt and not the samples of each row. What
is no piece, every process does for itself: it loads the model, reads the samples, traces those that
compensations are fitted on, and ranks. Only results travel, on the processor (gloo).
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from svl_core.errors import InputError, SVLError
from svl_core.progress import ALONE, Team, launched

PATIENCE = timedelta(days=1)  # how long one process waits for another's piece
ONE_THREAD = "1"  # what launchers make of OMP_NUM_THREADS where nobody has set it


@contextlib.contextmanager
def team() -> Iterator[Team]:
    """The team that this process belongs to, for the work in this block; alone where no launcher
    started several.

    On entering, each process takes a GPU of its own and its part of the processor's threads. An
    error that ends the block in one process ends it in all.

    Raises InputError where a launcher's settings are incomplete, SVLError where another process
    failed or is gone.
    """
    if not launched() and not distributed.is_initialized():
        yield ALONE
        return
    if not distributed.is_initialized():
        _join()
    meeting = _Meeting()
    try:
        yield Team(meeting.rank, meeting.count, meeting.exchange)
    except Exception as error:
        meeting.end_with(error)
        raise
    meeting.exchange(lambda: None)  # waits for what may still go wrong elsewhere


def _join() -> None:
    """Meets the other processes, and takes this one's part of the machine. Raises InputError."""
    try:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    except ValueError as error:
        raise InputError(
            f"Found WORLD_SIZE={os.environ['WORLD_SIZE']}, but not all that goes with it ({error});"
            " expected what a launcher sets; start with accelerate launch or torchrun, or unset it."
        ) from error
    atexit.register(_leave)
    place = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    if os.environ.get("OMP_NUM_THREADS", ONE_THREAD) == ONE_THREAD:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        torch.set_num_threads(max(1, _cores() // beside))


def _cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave() -> None:
    """Ends the process when all end: a launcher stops the others as soon as one is gone, and the
    first may still have to say why.
    """
    with contextlib.suppress(RuntimeError):  # another is gone already
        distributed.barrier()
    distributed.destroy_process_group()


class _Meeting:
    """Where the processes of a team tell each other their results and errors.

    rank, count: as in `Team`.
    """

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.count = distributed.get_world_size()
        self._group = distributed.new_group(timeout=PATIENCE, backend="gloo")
        self._over = False  # an error was told: nobody comes any more

    def exchange(self, work: Callable[[], Any]) -> list[Any]:
        """As in `Team`: the error that all raise is that of the first process, by rank."""
        result: Any = None
        failure: SVLError | None = None
        try:
            result = work()
        except Exception as error:
            failure = self._telling(error)
        told: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(told, (result, failure), group=self._group)
        except RuntimeError as error:
            self._over = True
            raise SVLError(
                f"One of the {self.count} processes is gone; see what it or the launcher said."
            ) from error
        failures = [of_one for _, of_one in told if of_one is not None]
        if failures:
            self._over = True
            raise failures[0]
        return [of_one for of_one, _ in told]

    def end_with(self, error: Exception) -> None:
        """Has all processes raise the error, unless it came from them."""
        if not self._over:
            self.exchange(lambda: _raise(error))

    def _telling(self, error: Exception) -> SVLError:
        """The error as all raise it: a sentence."""
        if isinstance(error, SVLError):
            return error
        return SVLError(
            f"Process {self.rank + 1} of {self.count} failed with {type(error).__name__}:"
            f" {_short(error)}"
        )


def _raise(error: Exception) -> None:
    raise error


def _short(error: Exception) -> str:
    """Its first line."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
