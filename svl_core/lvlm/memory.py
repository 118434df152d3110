"""How much memory a model needs and how much there is, known before any weight is read."""

from __future__ import annotations

from pathlib import Path

import torch

from svl_core.errors import InputError

# Bytes a parameter, with the scales and the parts that stay unquantised.
BYTES = {
    "4bit": 0.6,
    "8bit": 1.1,
}
HEADROOM = 1.15  # activations and caches of one question beside the weights


def needed_bytes(
    parameters: int,
    dtype: torch.dtype,
    quantize: str | None = None,
) -> int:
    """Bytes that the weights and one question take.

    parameters: their number; a model without weights will do to count them.
    """
    size = dtype.itemsize if quantize is None else BYTES[quantize]
    return int(parameters * size * HEADROOM)


def free_bytes(device: torch.device) -> int | None:
    """Free bytes on a device; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [amount for amount in (_available(), _container_rest()) if amount is not None]
    return min(free, default=None)


def check_fits(
    name: str,
    needed: int,
    free: int | None,
    where: str,
) -> None:
    """Raises InputError when a model needs more than there is."""
    if free is not None and needed > free:
        raise InputError(
            f"Found {needed / 1e9:.1f} GB of memory needed for {name} and {free / 1e9:.1f} GB free"
            f" on {where}; expected enough for the whole model; choose a smaller model, a"
            " half-precision dtype, 4-bit loading or another device."
        )


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError):
        return None


def _container_rest() -> int | None:
    """What a container's limit leaves (control groups, version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        cached = next(
            (
                int(line.split()[1])
                for line in (group / "memory.stat").read_text().splitlines()
                if line.startswith("inactive_file ")
            ),
            0,
        )
        return None if limit == "max" else max(int(limit) - used + cached, 0)
    except (OSError, ValueError):
        return None
