"""The line's values as plain ones and back: strings, numbers, lists, dicts and numpy arrays are all
that leaves the process.

Nothing is unpickled into a class: a name out of `CLASSES` and its fields make the value again,
checked by its own constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

import svl_core as svl
from svl_core.ui.state.settings import Settings

CLASSES = {
    cls.__name__: cls
    for cls in (
        svl.Answer,
        svl.AttentionStatistics,
        svl.Comparison,
        svl.DropPlan,
        svl.PatchGeometry,
        svl.Sample,
        svl.SampleTrace,
        svl.Trace,
        Settings,
    )
}
BITS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # by size: numpy knows no bfloat16


def pack(value: Any) -> Any:
    """Raises TypeError for a value of another kind: a model, a hook, a function."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        held = value.detach().cpu().contiguous()
        return {
            "is": "tensor",
            "dtype": str(held.dtype).removeprefix("torch."),
            "shape": list(held.shape),
            "bits": held.reshape(-1).view(BITS[held.element_size()]).numpy(),
        }
    if isinstance(value, Image.Image):
        return {"is": "image", "pixels": np.asarray(value.convert("RGB"))}
    if isinstance(value, (list, tuple)):
        return {"is": type(value).__name__, "items": [pack(each) for each in value]}
    if isinstance(value, Mapping):
        return {"is": "mapping", "items": [[pack(key), pack(each)] for key, each in value.items()]}
    if is_dataclass(value) and CLASSES.get(type(value).__name__) is type(value):
        return {
            "is": type(value).__name__,
            "fields": {field.name: pack(getattr(value, field.name)) for field in fields(value)},
        }
    raise TypeError(
        f"Found a {type(value).__name__} at the border between processes; expected names, numbers"
        " and arrays; add its class to CLASSES or leave it out."
    )


def unpack(value: Any) -> Any:
    """The inverse of `pack`."""
    if not isinstance(value, dict):
        return value
    kind = value["is"]
    if kind == "tensor":
        return (
            torch.from_numpy(np.array(value["bits"]))
            .view(getattr(torch, value["dtype"]))
            .reshape(value["shape"])
        )
    if kind == "image":
        return Image.fromarray(value["pixels"])
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](unpack(each) for each in value["items"])
    if kind == "mapping":
        return {unpack(key): unpack(each) for key, each in value["items"]}
    return CLASSES[kind](**{name: unpack(each) for name, each in value["fields"].items()})
