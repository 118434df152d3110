"""The page's state as a small value that can be put back: which model, image, prompt, plan and
settings.
"""

from __future__ import annotations

from collections.abc import Mapping

from svl_core.ui import examples
from svl_core.ui.drawing import Update
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.ask import SCENE, photo_update, scene_update
from svl_core.ui.wiring import Page

STATE = ("model", "key", "path", "prompt", "origin")


def take(page: Page, state: Mapping, strip: Mapping, settings: Settings) -> dict:
    """The analysis of `state` with the plan of `strip`, as JSON."""
    return {
        **{name: state[name] for name in STATE},
        "drop": list(strip["drop"]),
        "settings": page.values_of(settings),
    }


def restored(page: Page) -> list[str]:
    """What `restore` writes."""
    return [*SCENE, "model", "wanted", *page.controls]


def restore(page: Page, taken: Mapping, state: Mapping | None) -> Update:
    """Makes the page ask for `taken` again; the image stays where the page of `state` shows it
    already.
    """
    update: Update = dict(taken["settings"])
    shown = ("key", "path", "origin")
    if not state or any(state[name] != taken[name] for name in shown):
        if examples.from_origin(taken["origin"] or ""):
            update |= scene_update(taken["origin"])
        else:
            update |= photo_update(page, taken["model"], taken["prompt"], None)
            update["image"] = taken["path"]
    return {
        **update,
        "prompt": taken["prompt"],
        "model": taken["model"],
        "wanted": list(taken["drop"]),
    }
