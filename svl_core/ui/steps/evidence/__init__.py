"""Step "evidence": does it hold beyond this image? Each fold is a file here."""

from __future__ import annotations

from collections.abc import Mapping

from svl_core.ui import headings
from svl_core.ui.figure import Measured
from svl_core.ui.steps.evidence import ablation, calibration, stability, sweep
from svl_core.ui.wiring import Page

TITLE = "Does it hold beyond this image?"
LEDE = (
    "One image may mislead. Here many samples rank the layers, a sweep finds the cliff, and a map"
    " shows what each layer is for."
)
FOLDS = (calibration, stability, sweep, ablation)


def layout(page: Page) -> None:
    headings.step(7, TITLE, LEDE)
    for fold in FOLDS:
        fold.layout(page)


def wire(page: Page) -> None:
    for fold in FOLDS:
        fold.wire(page)


EVIDENCE = [*sweep.REPORTED, *stability.REPORTED, *ablation.REPORTED]
"""Names of the components that `measured` reads."""


def measured(page: Page, state: dict, strip: dict, values: Mapping[str, object]) -> list[Measured]:
    """What was measured here of the model that is on the page, figure by figure.

    values: of the components named above.
    """
    return [
        *sweep.measured(page, state, *(values[name] for name in sweep.REPORTED)),
        *stability.measured(state, *(values[name] for name in stability.REPORTED)),
        *ablation.measured(page, state, strip, *(values[name] for name in ablation.REPORTED)),
    ]
