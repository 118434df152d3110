"""What suits the machine that the page runs on: which backend computes, and how models are loaded.

Nothing that a backend is made of imports this file.
"""

from __future__ import annotations

from typing import Any

from svl_core.service.backend import LocalBackend
from svl_core.service.limits import Limits, on_zero_gpu
from svl_core.service.stores import Models


def choose_backend(models: Models, limits: Limits) -> LocalBackend:
    """The backend that suits this machine."""
    if on_zero_gpu():
        from svl_core.service.zero_gpu import ZeroGpuBackend

        return ZeroGpuBackend(models, limits)
    return LocalBackend(models, limits)


def load_options(name: str) -> dict[str, str]:
    """For `svl.load` in the page's process, where its defaults will not do."""
    if on_zero_gpu():
        from svl_core.service import zero_gpu

        return zero_gpu.load_options(name)
    return {}


def models_for(first: Any, limits: Limits) -> Models:
    """The models of a page whose first one is `first` (a name or an LVLM), within its limits."""
    return Models(first, pickle_weights=limits.pickle_weights, load_options=load_options)
