"""The weights of a checkpoint on the disk: the dtypes that they are stored in, and writing them
anew in others.

A model may compute in another dtype than it is stored in. What is saved of it goes back to the
stored one: a checkpoint of bfloat16 weights that became float32 would be twice as large and hold
nothing more.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from svl_core.errors import InputError
from svl_core.lvlm.arithmetic import name_of

LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
# safetensors' names of the dtypes that models compute in.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
COPIED = 2**24  # numbers that are converted at a time
NUMBER = re.compile(r"\.\d+(?=\.|$)")


SUMS = "sha256"  # in `svl_plan.json`: of each file of weights, by its name


def sums(folder: Path) -> dict[str, str]:
    """sha256 of each file of weights in a folder, by its name."""
    found = {}
    for file in weight_files(folder):
        with file.open("rb") as content:
            found[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def check_sums(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises InputError where weights are not those that were written with the record.

    record: of `svl_plan.json`; an older one holds no sums.
    """
    written = record.get(SUMS)
    if not isinstance(written, Mapping):
        return
    present = sums(folder)
    for name, digest in written.items():
        if present.get(name) != digest:
            found = "other bytes" if name in present else "nothing"
            raise InputError(
                f"Found {found} in the place of {name} in {folder.name}; expected the weights that"
                " its svl_plan.json was written with; copy the folder again, or take svl_plan.json"
                " out if they were changed on purpose."
            )


@dataclass(frozen=True)
class StoredDtypes:
    """The dtypes of a checkpoint's tensors.

    usual: of most of its numbers.
    others: of the tensors stored otherwise, by their names in the files without the numbers of
        layers: a pruned model has other numbers.
    """

    usual: torch.dtype
    others: Mapping[str, torch.dtype] = field(default_factory=dict)

    def of(self, name: str) -> torch.dtype:
        """The dtype of the tensor of that name."""
        return self.others.get(_unnumbered(name), self.usual)


def _unnumbered(name: str) -> str:
    """ "model.layers.3.mlp.weight" -> "model.layers.*.mlp.weight"."""
    return NUMBER.sub(".*", name)


def stored_dtypes(folder: Path) -> StoredDtypes | None:
    """The dtypes in the headers of a folder's safetensors files; None where there is no such file
    or one that holds another kind of numbers too (quantised weights).

    Where tensors that differ by their layer alone are stored differently, the widest dtype is
    theirs.
    """
    numbers: Counter[torch.dtype] = Counter()
    found: dict[str, set[torch.dtype]] = defaultdict(set)
    try:
        for file in weight_files(folder):
            for name, tensor in tensors_of(read_header(file)):
                dtype = DTYPES[tensor["dtype"]]
                start, stop = tensor["data_offsets"]
                numbers[dtype] += (stop - start) // dtype.itemsize
                found[_unnumbered(name)].add(dtype)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not numbers:
        return None
    usual, _ = numbers.most_common(1)[0]
    widest = {
        name: max(dtypes, key=lambda dtype: (dtype.itemsize, dtype == usual))
        for name, dtypes in found.items()
    }
    return StoredDtypes(usual, {name: dtype for name, dtype in widest.items() if dtype != usual})


# Formats that can be written


LAYER_NUMBER = re.compile(r"layers\.\d")


def check_writable(model) -> None:
    """Raises InputError for a model whose weights are in a quantised format that transformers
    cannot write, or in one whose settings name layers by their numbers, which pruning changes.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    settings = quantizer.quantization_config
    method = getattr(settings, "quant_method", None)
    name = str(getattr(method, "value", method) or type(quantizer).__name__)
    reason = None
    if not _writable(quantizer):
        reason = "transformers cannot write"
    elif LAYER_NUMBER.search(json.dumps(settings.to_dict(), default=str)):
        reason = "names layers by their numbers"
    if reason is not None:
        raise InputError(
            f"Found weights in the quantised format {name}, which {reason}; expected weights that"
            " can be saved after pruning; analyse and compare this model, and prune its unquantised"
            " original."
        )


def _writable(quantizer) -> bool:
    """Whether transformers says that it can write what a quantiser made."""
    answer = quantizer.is_serializable
    return bool(answer() if callable(answer) else answer)


# Files


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make a folder's model: those of its index, else the one of the
    usual name, else all that there are.
    """
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX)
        return sorted(folder / shard for shard in set(index["weight_map"].values()))
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> dtype, shape and place of each tensor.

    Raises OSError, ValueError for a file without one.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length >= LONGEST_HEADER:
            raise ValueError("This header is too long for one.")
        return json.loads(opened.read(length))


def tensors_of(header: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The header's entries of tensors."""
    return ((name, entry) for name, entry in header.items() if name != "__metadata__")


# Writing


def convert(folder: Path, dtypes: StoredDtypes, *, widen: bool = False) -> None:
    """Writes the weights of a saved model anew in other dtypes, a few numbers at a time, and says
    so in its config.

    dtypes: those wanted; tensors that hold no floating-point numbers stay as they are.
    widen: make narrower tensors wider too, which tells nothing more of them.

    Raises OSError where there is no room; every file is then whole, old or new.
    """
    files = weight_files(folder)
    for file in files:
        _convert_file(file, dtypes, widen)
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX)
        ends = [
            tensor["data_offsets"] for file in files for _, tensor in tensors_of(read_header(file))
        ]
        index["metadata"]["total_size"] = sum(stop - start for start, stop in ends)
        _write_json(folder / INDEX, index)
    config = _read_json(folder / CONFIG)
    told = getattr(torch, config["dtype"])
    if widen or dtypes.usual.itemsize < told.itemsize:
        usual = name_of(dtypes.usual)
        _write_json(folder / CONFIG, _renamed(config, config["dtype"], usual))


def _convert_file(file: Path, dtypes: StoredDtypes, widen: bool) -> None:
    """Writes one file anew beside it, and puts it in its place once it is complete."""
    from safetensors import safe_open

    header = read_header(file)
    wanted = {}
    for name, tensor in tensors_of(header):
        present = DTYPES.get(tensor["dtype"])
        if present is not None and (widen or dtypes.of(name).itemsize < present.itemsize):
            wanted[name] = dtypes.of(name)
    if not wanted:
        return
    made, order = _planned(header, wanted)
    written = file.with_name(f"{file.name}.part")
    try:
        with safe_open(file, framework="pt") as source, written.open("wb") as target:
            target.write(made)
            for name in order:
                for part in source.get_tensor(name).flatten().split(COPIED):
                    numbers = part.to(wanted.get(name, part.dtype)).contiguous()
                    target.write(numbers.view(torch.uint8).numpy().data)
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)


def _planned(
    header: Mapping[str, Any],
    wanted: Mapping[str, torch.dtype],
) -> tuple[bytes, list[str]]:
    """The head of a safetensors file with other dtypes, and the order of its tensors: the widest
    numbers first, so that each lies at a multiple of its size.
    """
    entries: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    for name, tensor in tensors_of(header):
        start, stop = tensor["data_offsets"]
        entries[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"]}
        sizes[name] = stop - start
        if name in wanted:
            present = DTYPES[tensor["dtype"]]
            entries[name]["dtype"] = NAMES[wanted[name]]
            sizes[name] = (stop - start) // present.itemsize * wanted[name].itemsize

    def place(name: str) -> tuple[int, str]:
        dtype = DTYPES.get(entries[name]["dtype"])
        return -(dtype.itemsize if dtype else 8), name

    order = sorted(entries, key=place)
    start = 0
    for name in order:
        entries[name]["data_offsets"] = [start, start + sizes[name]]
        start += sizes[name]
    told: dict[str, Any] = {name: entries[name] for name in order}
    if "__metadata__" in header:
        told = {"__metadata__": header["__metadata__"], **told}
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _renamed(value: Any, old: str, new: str) -> Any:
    """A config, or a part of it, with another dtype wherever it names the old one."""
    if not isinstance(value, dict):
        return value
    return {
        key: new if key == "dtype" and part == old else _renamed(part, old, new)
        for key, part in value.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
