"""What a visitor's browser sends back of a layer strip is believed where this server made it.

The browser changes which layers go, and nothing else. So all the rest carries a seal; a strip whose
seal is another's, or none, is made anew from the analysis, and of it only the layers that go are
taken, where they may.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any

from svl_core.errors import InputError

SEAL = "seal"
MOST_LAYERS = 4096  # of a strip that is looked at at all
MOST_KEYS = 16  # of such a one
SECRET = secrets.token_bytes(32)  # of this start of the server


def sealed(strip: Mapping[str, Any]) -> dict:
    """A strip for the browser, with the seal of all but the layers that go."""
    return {**_fixed(strip), "drop": strip["drop"], SEAL: _seal_of(strip)}


def is_genuine(strip: Any) -> bool:
    """Whether all but the layers that go is as this server made it."""
    if not isinstance(strip, dict) or not isinstance(strip.get(SEAL), str):
        return False
    ids = strip.get("ids")
    if not isinstance(ids, list) or len(ids) > MOST_LAYERS or len(strip) > MOST_KEYS:
        return False
    try:
        return hmac.compare_digest(strip[SEAL], _seal_of(strip))
    except (TypeError, ValueError, RecursionError):
        return False


def dropped(strip: Any, layers: int, protected: list[int]) -> list[int]:
    """The layers that go by a visitor's strip. Raises InputError for what cannot go.

    layers: how many there are. protected: those that stay.
    """
    drop = strip.get("drop") if isinstance(strip, dict) else None
    if not isinstance(drop, list) or len(drop) > layers:
        raise InputError(
            f"Found no list of at most {layers} layers to drop; expected layers of this model;"
            " press Analyze again."
        )
    for layer in drop:
        fits = isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < layers
        if not fits or layer in protected:
            raise InputError(
                f"Found the layer {str(layer)[:40]!r} to drop; expected one of 0 to {layers - 1}"
                " that is not protected; change it."
            )
    return sorted(set(drop))


def _fixed(strip: Mapping[str, Any]) -> dict:
    return {name: value for name, value in strip.items() if name not in ("drop", SEAL)}


def _seal_of(strip: Mapping[str, Any]) -> str:
    text = json.dumps(_fixed(strip), sort_keys=True, separators=(",", ":"))
    return hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()
