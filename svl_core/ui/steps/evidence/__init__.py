"""Step "evidence": does it hold beyond this image? Each fold is a file here."""

from __future__ import annotations

from svl_core.ui import headings
from svl_core.ui.steps.evidence import ablation, calibration, stability, sweep
from svl_core.ui.wiring import Page

TITLE = "Does it hold beyond this image?"
LEDE = (
    "One image may mislead. Here many samples rank the layers, a sweep finds the cliff, and a map"
    " shows what each layer is for."
)
FOLDS = (calibration, stability, sweep, ablation)


def layout(page: Page) -> None:
    headings.step(6, TITLE, LEDE)
    for fold in FOLDS:
        fold.layout(page)


def wire(page: Page) -> None:
    for fold in FOLDS:
        fold.wire(page)
