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
from svl_core.recipe import Recipe

CLASSES = {
    cls.__name__: cls
    for cls in (
        Recipe,
        svl.Answer,
        svl.AttentionStatistics,
        svl.Comparison,
        svl.DropPlan,
        svl.PatchGeometry,
        svl.Sample,
        svl.SampleTrace,
        svl.Speed,
        svl.Trace,
    )
}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By size in bytes: a tensor's bits travel as these, for numpy knows no bfloat16."""


def pack(value: Any) -> Any:
    """Raises TypeError for a value of another kind: a model, a hook, a function."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        return _packed_tensor(value)
    if isinstance(value, Image.Image):
        return {"is": "image", "pixels": np.asarray(value.convert("RGB"))}
    if isinstance(value, (list, tuple)):
        return {"is": type(value).__name__, "items": [pack(item) for item in value]}
    if isinstance(value, Mapping):
        return {"is": "mapping", "items": [[pack(k), pack(v)] for k, v in value.items()]}
    name = type(value).__name__
    if is_dataclass(value) and CLASSES.get(name) is type(value):
        packed = {field.name: pack(getattr(value, field.name)) for field in fields(value)}
        return {"is": name, "fields": packed}
    raise TypeError(
        f"Found a {name} at the border between processes; expected names, numbers and arrays; add"
        " its class to CLASSES or leave it out."
    )


def _packed_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    tensor = tensor.detach().cpu().contiguous()
    bits = tensor.reshape(-1).view(INTEGERS[tensor.element_size()])
    return {
        "is": "tensor",
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "bits": bits.numpy(),
    }


def unpack(value: Any) -> Any:
    """The inverse of `pack`."""
    if not isinstance(value, dict):
        return value
    kind = value["is"]
    if kind == "tensor":
        bits = torch.from_numpy(np.array(value["bits"]))
        return bits.view(getattr(torch, value["dtype"])).reshape(value["shape"])
    if kind == "image":
        return Image.fromarray(value["pixels"])
    if kind in ("list", "tuple"):
        items = [unpack(item) for item in value["items"]]
        return items if kind == "list" else tuple(items)
    if kind == "mapping":
        return {unpack(k): unpack(v) for k, v in value["items"]}
    return CLASSES[kind](**{name: unpack(field) for name, field in value["fields"].items()})
