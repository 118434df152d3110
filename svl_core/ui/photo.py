"""What is said beside a picture of the visitor's own that the model does not know the like of."""

from __future__ import annotations

from collections.abc import Mapping

from svl_core.lvlm.images import upright_size
from svl_core.service import photo_model
from svl_core.service.workspace import Workspace
from svl_core.ui import texts, views


def is_outside(workspace: Workspace, state: Mapping) -> bool:
    """Whether a state shows a picture of the visitor's own to a model that knows scenes alone."""
    return _knows_scenes_only(workspace, state["model"]) and bool(
        state["path"] and not state["origin"]
    )


def note(workspace: Workspace, model: str, path: str | None = None) -> str:
    """What stands beside a picture of the visitor's own, with one button to ask a model that knows
    photographs; "" where the model may know it.

    path: of the picture, for the seconds that this machine would take; None leaves them out.
    """
    if not _knows_scenes_only(workspace, model):
        return ""
    offered = workspace.limits.any_model or photo_model.entry() in workspace.limits.offered()
    if not offered:
        return views.note(texts.PHOTO_NOTE)
    return views.note(texts.PHOTO_NOTE) + views.offer(_label(workspace, path), photo_model.NAME)


def _label(workspace: Workspace, path: str | None) -> str:
    """What the button says: the model, its size until it is loaded, and the seconds expected."""
    from svl_core.lvlm.forecast import readable

    facts = []
    if not workspace.models.ready(photo_model.NAME):
        size = readable(photo_model.entry().memory_gb * 1e9, "B")
        facts.append(f"{size} to fetch once")
    picture = upright_size(path) if path else None
    if picture and workspace.backend.computes_here(photo_model.NAME):
        seconds = photo_model.expected_seconds(picture.width, picture.height)
        facts.append(f"then about {max(1, round(seconds))} s on this machine")
    told = f" ({', '.join(facts)})" if facts else ""
    return f"Ask {photo_model.TITLE} about this photo{told}"


def _knows_scenes_only(workspace: Workspace, model: str) -> bool:
    return model in workspace.scene_models
