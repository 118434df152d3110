"""The page's state as a small value that can be put back: which model, image, prompt, plan and
settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from svl_core.ui import examples, texts, views
from svl_core.ui.handlers import GENERIC_QUESTIONS, Desk
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import CONTROLS

RESTORED = [
    "image",
    "prompt",
    "truth",
    "chips",
    "composer",
    "photo-note",
    "origin",
    "model",
    "wanted",
    *CONTROLS,
]  # what `restore` writes


def take(state: Mapping, strip: Mapping, now: Settings) -> dict:
    """The analysis of `state` with the plan of `strip`, as JSON."""
    return {
        **{k: state[k] for k in ("model", "key", "path", "prompt", "origin")},
        "drop": list(strip["drop"]),
        "settings": asdict(now),
    }


def restore(desk: Desk, taken: Mapping, state: Mapping | None) -> dict[str, object]:
    """{component: value} that makes the page ask for `taken` again; the image stays where the page
    of `state` shows it already.
    """
    out: dict[str, object] = dict(taken["settings"])
    if not state or (state["key"], state["path"], state["origin"]) != (
        taken["key"],
        taken["path"],
        taken["origin"],
    ):
        if examples.from_origin(taken["origin"] or ""):
            out |= desk.scene(taken["origin"])
        else:
            out |= {
                "image": taken["path"],
                "truth": {},
                "chips": views.chips(GENERIC_QUESTIONS),
                "origin": "",
                "photo-note": views.note(texts.PHOTO_NOTE)
                if taken["model"] in desk.scene_models
                else "",
            }
    return out | {"prompt": taken["prompt"], "model": taken["model"], "wanted": list(taken["drop"])}
