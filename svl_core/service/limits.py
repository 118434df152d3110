"""What one visitor may ask for: one frozen value, generous at home (`Limits()`), tight for
strangers (`PUBLIC`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from svl_core.errors import InputError
from svl_core.lvlm.catalogue import CatalogueEntry, catalogue


@dataclass(frozen=True)
class Limits:
    """Sizes are in the unit that the name ends with; flags say what is allowed at all."""

    any_model: bool = True  # Hub ids outside the catalogue and local folders
    pickle_weights: bool = True  # checkpoints without safetensors
    export: bool = True  # writing a pruned checkpoint on the server, to be downloaded
    details: bool = True  # an unexpected error's own words on the page and in the log
    model_gb: float = 1000.0  # largest model of the catalogue, weights in bfloat16
    image_bytes: int = 20_000_000
    image_pixels: int = 40_000_000
    set_pixels: int = 1_000_000_000  # of a calibration set's images, in memory at once
    prompt_chars: int = 20_000
    new_tokens: int = 512
    calibration_samples: int = 512
    sweep_points: int = 4096  # pruned models measured in one sweep
    questions: int = 10_000  # of one evaluation
    request_s: float = 3600.0  # analysis or comparison, loading included
    heavy_jobs: int = 1  # at the same time, all sessions together
    queue: int = 128  # long requests that wait or run, all sessions together
    address_queue: int = 128  # of these, from one address
    session_queue: int = 64  # of these, of one session
    clicks: int = 2_000  # short requests that wait or run, all sessions together
    address_clicks: int = 1_000  # of these, from one address
    session_clicks: int = 500  # of these, of one session
    unheard_s: float = 600.0  # work whose result nobody listens for ends after this
    sessions: int = 400  # open pages
    address_sessions: int = 400  # of these, from one address
    body_bytes: int = 8_000_000  # of one request that is not an upload
    upload_bytes: int = 500_000_000  # of one request's files, each within image_bytes
    upload_files: int = 1_000  # of one request
    upload_s: float = 3600.0  # that a request may take until it has arrived
    address_uploads: int = 64  # requests with files that arrive at once, from one address
    stored_bytes: int = 20_000_000_000  # uploads, scenes and reports of all sessions together
    address_bytes: int = 20_000_000_000  # of these, from one address
    address_files: int = 100_000  # stored from one address
    session_files: int = 64  # scenes and reports of one session; the oldest goes for a newer one
    keep_s: int = 86_400  # a file that no session owns is deleted after this
    away_s: int = 1_800  # a page whose connection dropped, a sleeping phone's say, is waited for

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and not value > 0:
                raise InputError(
                    f"Found the limit {field.name} = {value}; expected more than 0; correct it."
                )

    def check(self, name: str, found: float, what: str) -> None:
        """Raises InputError where `found` of `what` is more than the limit `name` allows."""
        most = getattr(self, name)
        if found > most:
            raise InputError(
                f"Found {found:,} {what}; expected at most {most:,} here; ask for less."
            )

    def offered(self) -> tuple[CatalogueEntry, ...]:
        """The catalogue's models that may be chosen; strangers get no gated ones, for consent was
        given to the host alone.
        """
        return tuple(
            entry
            for entry in catalogue()
            if entry.memory_gb <= self.model_gb and (self.any_model or not entry.gated)
        )

    def check_model(self, name: str, first: str) -> None:
        """Raises InputError for a model that is not on offer. first: the one that the page was
        started with.
        """
        if (
            not self.any_model
            and name != first
            and name not in {entry.id for entry in self.offered()}
        ):
            raise InputError(
                "Found a model that is not on this page's list; expected one of the list, since"
                " this page is public; choose one, or run the project on your own machine."
            )

    def check_export(self) -> None:
        """Raises InputError where checkpoints may not be exported."""
        if not self.export:
            raise InputError(
                "Found a request to export a checkpoint, which this page does not offer; expected"
                " the plan or the code; take those along and run them on your own machine."
            )

    def lines(self) -> list[str]:
        """Every limit as "name: value", for the console."""
        return [f"{field.name}: {_shown(getattr(self, field.name))}" for field in fields(self)]


def on_zero_gpu(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a Space whose GPU is lent call by call."""
    return env.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _shown(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:,}"


HOME = Limits()
"""One person's own machine."""

PUBLIC = Limits(
    any_model=False,
    pickle_weights=False,
    export=False,
    details=False,
    model_gb=5.0,
    image_bytes=10_000_000,
    image_pixels=20_000_000,
    set_pixels=80_000_000,
    prompt_chars=2_000,
    new_tokens=128,
    calibration_samples=128,
    sweep_points=64,
    questions=200,
    request_s=120.0,
    queue=64,
    address_queue=16,
    session_queue=8,
    address_clicks=100,
    session_clicks=50,
    unheard_s=10.0,
    address_sessions=64,
    body_bytes=2_000_000,
    upload_bytes=60_000_000,
    upload_files=300,
    upload_s=300.0,
    address_uploads=8,
    stored_bytes=2_000_000_000,
    address_bytes=250_000_000,
    address_files=1_000,
    session_files=16,
    keep_s=3600,
    away_s=900,
)
"""A server that strangers can reach."""

ZERO_GPU = replace(PUBLIC, model_gb=18.0)  # a lent GPU holds three models of that size


def from_environment(public: bool, env: Mapping[str, str] = os.environ) -> Limits:
    """`PUBLIC` (with a lent GPU `ZERO_GPU`) or the generous defaults, each field overridden by
    SVL_LIMIT_<FIELD>; flags take 0 or 1. Raises InputError.
    """
    strict = ZERO_GPU if on_zero_gpu(env) else PUBLIC
    limits = strict if public else HOME
    changes = {}
    for field in fields(Limits):
        variable = f"SVL_LIMIT_{field.name.upper()}"
        text = env.get(variable)
        if text is None:
            continue
        kind = type(getattr(limits, field.name))
        try:
            changes[field.name] = bool(int(text)) if kind is bool else kind(text)
        except ValueError as error:
            expected = "0 or 1" if kind is bool else "a number"
            raise InputError(
                f"Found {variable}={text!r}; expected {expected}; correct it."
            ) from error
    return replace(limits, **changes)
