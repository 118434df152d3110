"""Loading a model: the bundled one, a local folder, or a Hub id.

The only place that touches the network.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from svl_core.errors import Cancelled, InputError, Unreachable
from svl_core.files import expanded
from svl_core.lvlm import arithmetic, catalogue, families, halves, memory, packages
from svl_core.lvlm.card import CARD, NOTICES
from svl_core.lvlm.catalogue import DEMO
from svl_core.lvlm.checkpoint import (
    SUMS,
    StoredDtypes,
    check_sums,
    read_header,
    stored_dtypes,
    tensors_of,
)
from svl_core.lvlm.detail import TYPICAL, Extent, Setup, Sizes
from svl_core.lvlm.forecast import (
    TEXT,
    Forecast,
    forecast,
    measured_speeds,
    pass_cost,
    prompt_positions,
)
from svl_core.lvlm.geometry import Sized
from svl_core.lvlm.kinds import class_of
from svl_core.lvlm.model import LVLM, PLAN_FILE, quiet
from svl_core.lvlm.probing import probe, refuse_without_layers
from svl_core.lvlm.processors import load_processor
from svl_core.lvlm.skeleton import empty
from svl_core.progress import QUIET, Run
from svl_core.recipe import AUTO, FULL, HALVES, OPTIONS

SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", CARD, *NOTICES]
NOT_NEEDED = ["*/*", "consolidated*"]  # other formats of the same weights
QUANTIZATIONS = ("4bit", "8bit")
# Accelerate's ways of spreading a model.
DEVICE_MAPS = (
    "auto",
    "balanced",
    "balanced_low_0",
    "sequential",
)
# The share of the parameters that a checkpoint may leave out, for some leave out what is not used.
MISSING_SHARE = 0.01
TALKATIVE = (  # loggers that report each matrix which is cast or kept elsewhere
    "bitsandbytes",
    "accelerate.big_modeling",
)
# Of svl_plan.json; the rest is provenance.
RECORD_KEYS = (
    "layer_ids",
    "model",
    "revision",
    "versions",
    SUMS,
)


def load(
    name: str | Path = DEMO,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | dict | None = None,
    quantize: str | None = None,
    text_only: bool = False,
    pickle_weights: bool = True,
    detail: str = FULL,
    max_visual_tokens: int | None = None,
    plain: bool = False,
    run: Run = QUIET,
) -> LVLM:
    """Loads a vision-language model in evaluation mode, without gradients.

    Code from a model's own folder is never run.

    name: "demo" (bundled), a folder, or a Hub id.
    revision: branch, tag or commit of a Hub id.
    device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
    dtype: "float32", "bfloat16", "float16" or "auto": as stored, but on a CPU what suits it and its
        memory (see `arithmetic.choose`): a model stored in half precision stays so only where that
        is clearly faster, by a quarter of a second of the model's own products.
    device_map: "auto" (or another of `DEVICE_MAPS`) spreads the model over all GPUs and the CPU
        (extra `large`); then `device` is not used. A dict from parts of the model to devices may
        keep some on the "disk".
    quantize: "4bit" or "8bit" through bitsandbytes (extra `large`).
    text_only: allow a plain causal language model, as a control without images.
    pickle_weights: allow a checkpoint without safetensors, whose weights are pickles (read without
        running their code).
    detail, max_visual_tokens: how closely it looks at pictures, see `LVLM.encode`.
    plain: whether answers leave the model's generation settings out, see `LVLM`.
    run: progress; cancelling it stops a download.

    Raises InputError for a name that leads to no model, a gated model, one without image input, one
    too large for the memory that is free, one of no known family that fails its probes, and unknown
    options; Cancelled.
    """
    for talkative in TALKATIVE:
        logging.getLogger(talkative).setLevel(logging.ERROR)
    name = str(name)
    reading = {
        "detail": OPTIONS["detail"].checked(detail),
        "max_visual_tokens": OPTIONS["max_visual_tokens"].checked(max_visual_tokens),
    }
    asked = arithmetic.known_dtype(dtype)
    quantize = _known_quantization(quantize)
    place = None if device_map else resolve_device(device)
    _check_device_map(device_map)
    folder, commit = locate(name, revision)
    run.report(0.02, "reading the config")
    config, model_class, supports_images = _known_config(folder, name, text_only)
    replaced = arithmetic.usable_attention(config)
    on_processor = place is not None and place.type == "cpu"
    if on_processor:
        arithmetic.limit_threads()
    blank = _skeleton(model_class, config, name)
    refuse_without_layers(blank, name)
    chosen = arithmetic.choose(blank, config, place, asked).without(replaced)
    if not quantize or place is not None:
        parameters = families.count_parameters(blank)
        needed = memory.needed_bytes(parameters, chosen.dtype, quantize)
        where = "this machine" if place is None else str(place)
        memory.check_fits(name, needed, _free_bytes(place), where)
    folder = _with_weights(folder, name, commit, run, pickle_weights)
    run.report(0.85, "loading")
    processor = load_processor(folder, config, text_only=not supports_images)
    options: dict[str, Any] = {"dtype": chosen.dtype}
    if replaced:
        options["config"] = config
    if not pickle_weights:
        options["use_safetensors"] = True
    if device_map or quantize:
        options["device_map"] = device_map or {"": place}
    if quantize:
        options["quantization_config"] = _quantization_config(quantize, chosen.dtype)
    record = read_record(folder)
    check_sums(folder, record)
    model = _with_all_weights(model_class, folder, name, options)
    if not device_map and not quantize:
        model = model.to(place)
        if on_processor:
            arithmetic.lay_out(model)
    model = model.eval().requires_grad_(False)
    if quantize:
        _check_packed(model, name, quantize)
    _skip_again(model, record)
    lvlm = LVLM(
        model=model,
        processor=processor,
        family=families.family_of(config),
        name=name,
        revision=commit,
        layer_ids=tuple(record.get("layer_ids", ())),
        provenance={key: value for key, value in record.items() if key not in RECORD_KEYS},
        stored=stored_dtypes(folder) or StoredDtypes(arithmetic.stored_dtype(config)),
        arithmetic=chosen,
        folder=folder,
        plain=plain,
    )
    if lvlm.family is families.GENERIC:
        run.report(0.95, "probing a model of no known family")
        lvlm = probe(lvlm)
    run.report(1.0, f"loaded: {lvlm.computes_in}")
    return lvlm.reading(**reading)


def _skip_again(model, record: Mapping[str, Any]) -> None:
    """Skips the halves of layers that were skipped when the model was saved: they add nothing.

    Raises InputError for a record that names others than the model has.
    """
    ids = list(record.get("layer_ids", ()))
    for half, layers in record.get("skipped", {}).items():
        if half not in HALVES or not set(layers) <= set(ids):
            raise InputError(
                f"Found {half} of the layers {layers} skipped in {PLAN_FILE}; expected"
                f" {' or '.join(HALVES)} of layers that it has, {ids}; copy the folder again."
            )
        halves.skip(model, half, [ids.index(layer) for layer in layers])


def _skeleton(model_class: Any, config, name: str):
    """The model without weights.

    Raises InputError where a package is missing that it needs, and for a config of which no model
    can be made.
    """
    try:
        return empty(model_class, config)
    except Exception as error:  # whatever a model's constructor may raise
        packages.refuse_missing(repr(name), error)
        raise InputError(
            f"Found {name!r}, of whose config no {config.model_type} model can be made"
            f" ({_short(error)}); expected a complete config that the installed transformers"
            " library takes; get the model's folder again, or choose one of `svl models`."
        ) from error


def _check_device_map(device_map: str | dict | None) -> None:
    """Raises InputError for an unknown device map and where accelerate is missing."""
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise InputError(
            f"Found the device map {device_map!r}; expected one of {', '.join(DEVICE_MAPS)};"
            " correct it."
        )
    if device_map and importlib.util.find_spec("accelerate") is None:
        raise InputError(
            "Found a device map, but not the package accelerate; expected it for models on several"
            " devices; install it with: pip install accelerate."
        )


def _quantization_config(quantize: str, dtype: torch.dtype):
    """How bitsandbytes loads the weights; `dtype` is what it computes in."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=quantize == "4bit",
        load_in_8bit=quantize == "8bit",
        bnb_4bit_compute_dtype=dtype,
    )


@torch.inference_mode()
def _check_packed(
    model: torch.nn.Module,
    name: str,
    quantize: str,
) -> None:
    """Tries one quantised linear map of each shape: bitsandbytes packs some widths into what its
    own product does not take, and says so only there.

    Raises InputError where one cannot be used.
    """
    tried = set()
    for path, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        shape: Any = getattr(module, "out_features", None), getattr(module, "in_features", None)
        if getattr(weight, "quant_state", None) is None or shape in tried:
            continue
        tried.add(shape)
        dtype: Any = model.dtype
        row = torch.zeros(1, 1, shape[1], dtype=dtype, device=weight.device)
        try:
            module(row)
        except Exception as error:  # kernels differ by device and version
            raise InputError(
                f"Found weights of {shape[0]} x {shape[1]} numbers in {name} ({path}), which"
                f" bitsandbytes cannot use in {quantize} here ({_short(error)}); expected widths"
                " that it packs; load the model in 8bit or without quantisation."
            ) from error


def _with_all_weights(
    model_class: Any,
    folder: Path,
    name: str,
    options: Mapping[str, Any],
):
    """The transformers model in `folder`.

    options: for `from_pretrained`.
    Raises InputError for a checkpoint that cannot be read or leaves out more than `MISSING_SHARE`.
    """
    try:
        with quiet():
            model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # unreadable files, wrong shapes, packages that are missing
        packages.refuse_missing(repr(name), error)
        raise InputError(
            f"Found {name!r}, but its weights cannot be loaded ({_short(error)}); expected a"
            " complete checkpoint; get it again."
        ) from error
    sizes = {key: tensor.numel() for key, tensor in model.named_parameters()}
    missing = info["missing_keys"]
    if sum(sizes.get(key, 0) for key in missing) > MISSING_SHARE * sum(sizes.values()):
        raise InputError(
            f"Found {name!r}, but only a part of its weights ({len(missing)} tensors"
            f" are missing, such as {min(missing)}); expected a complete checkpoint;"
            " get it again."
        )
    return model


def foresee(
    name: str | Path = DEMO,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    positions: int | None = None,
    samples: int = 1,
    detail: str = FULL,
    max_visual_tokens: int | None = None,
    pictures: Sequence[Sized] = TYPICAL,
) -> Forecast:
    """What an analysis with a model would take, from its config alone; the folder may hold nothing
    else.

    name, revision, device, dtype: as for `load`.
    positions: of each prompt (default: those of a short prompt with the pictures).
    samples: how many prompts.
    detail, max_visual_tokens: as for `load`.
    pictures: of each prompt, counted where the folder holds a processor that reads several sizes.

    Raises InputError for a name that leads to no config of a model with image input, and unknown
    options.
    """
    if min(1 if positions is None else positions, samples) < 1:
        raise InputError(
            f"Found {positions} positions and {samples} samples; expected at least one of each;"
            " raise it."
        )
    name = str(name)
    place = resolve_device(device)
    asked = arithmetic.known_dtype(dtype)
    folder, _ = locate(name, revision)
    config, model_class, _ = _known_config(folder, name, True)
    arithmetic.usable_attention(config)
    skeleton = _skeleton(model_class, config, name)
    chosen = arithmetic.choose(skeleton, config, place, asked)
    speeds = measured_speeds(chosen.dtype, place)

    def seconds(extent: Extent) -> float:
        cost = pass_cost(skeleton)
        return cost.operations(extent) / speeds[0] / 1e9 if place.type == "cpu" else 0.0

    sizes = _sizes(folder, config)
    extent = None
    if sizes is not None and positions is None:
        if detail == AUTO:
            detail = sizes.shortest(pictures, seconds).detail
        extent = sizes.extent(sizes.level(pictures, detail, max_visual_tokens), pictures)
    if positions is None:
        positions = prompt_positions(config) if extent is None else extent.tokens + TEXT
    made = forecast(
        name,
        model_class,
        config,
        chosen.dtype,
        place,
        positions=positions,
        patches=None if extent is None else extent.patches,
        samples=samples,
        mlp=samples > 1,
        speeds=speeds,
    )
    return dataclasses.replace(made, dtype_reason=chosen.reason)


def _sizes(folder: Path, config) -> Sizes | None:
    """The sizes in which the folder's processor reads pictures; None without one that can be
    used, or for one size.
    """
    try:
        processor = load_processor(folder, config)
    except InputError:
        return None
    sizes = Sizes(families.family_of(config), Setup(processor, config))
    return None if sizes.one else sizes


# Where a model is


def locate(
    name: str,
    revision: str | None = None,
) -> tuple[Path, str | None]:
    """The local folder of a model (of a Hub id: its config and other small files) and the commit
    that it stands for.
    """
    if name == DEMO:
        folder = next(
            (place for place in catalogue.DEMO_PLACES if (place / "config.json").is_file()),
            None,
        )
        if folder is None:
            raise InputError(
                "Found no bundled model; expected it in assets/demo_lvlm, within svl_core or beside"
                " it; install the project anew from a clone of it with pip install ., or name"
                " another model."
            )
        return folder, None
    folder = expanded(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"Found a folder {name!r} without config.json; expected a transformers checkpoint;"
                " give the folder that holds the model."
            )
        return folder, None
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(
            f"Found no folder {name!r}; expected a model's folder or a Hub id such as org/model;"
            " check the path."
        )
    folder, _ = _download(name, revision, SMALL_FILES)
    return folder, folder.name


def _with_weights(
    folder: Path,
    name: str,
    commit: str | None,
    run: Run,
    pickle_weights: bool = True,
) -> Path:
    """The folder with its weights: as it is when it is a local one, else downloaded."""
    refusal = (
        f"Found {name!r}, whose weights are pickles; expected safetensors, since pickles are"
        " refused here; choose another model."
    )
    if (
        commit is None
        and not pickle_weights
        and not any(folder.glob("*.safetensors"))
        and any(folder.glob("*.bin"))
    ):
        raise InputError(refusal)
    if (
        commit is None
        or any(folder.glob("*.safetensors"))
        and not _missing_shards(folder)
        and not _cut_off(folder)
    ):
        return folder
    for file in _cut_off(folder):
        # What the cache holds of it, so that it is fetched anew.
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    folder, reached = _download(name, commit, [*SMALL_FILES, "*.safetensors"], run)
    if not any(folder.glob("*.safetensors")) or _missing_shards(folder):
        if not reached and not any(folder.glob("*.bin")):
            raise Unreachable(
                f"Found {name!r} only in part in the local cache, and the Hub cannot be asked for"
                " the rest; expected all of its weights; try again when the Hub can be reached, or"
                " choose another model.",
                name,
            )
        if not pickle_weights:
            raise InputError(refusal)
        folder, _ = _download(name, commit, [*SMALL_FILES, "*.bin"], run)
    return folder


def _missing_shards(folder: Path) -> bool:
    """Whether the folder's index names a file that is not there."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError):
        return False
    return any(not (folder / shard).exists() for shard in shards)


def _cut_off(folder: Path) -> list[Path]:
    """The safetensors files that end before their header says so, or whose header is none:
    half-downloaded or damaged.
    """
    broken = []
    for file in folder.glob("*.safetensors"):
        try:
            complete = file.stat().st_size >= _bytes_by_header(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            complete = False
        if not complete:
            broken.append(file)
    return broken


def _bytes_by_header(file: Path) -> int:
    """How long a safetensors file is by its own header."""
    header = read_header(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    ends = [tensor["data_offsets"][1] for _, tensor in tensors_of(header)]
    return 8 + length + max(ends, default=0)


def _download(
    name: str,
    revision: str | None,
    patterns: list[str],
    run: Run = QUIET,
) -> tuple[Path, bool]:
    """The Hub snapshot of `name`, from the local cache where it is complete or the Hub cannot be
    reached, and whether it could.
    """
    from huggingface_hub import (
        errors,
        snapshot_download,
        try_to_load_from_cache,
    )

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=NOT_NEEDED,
                tqdm_class=_bar(run),
            )
        )
    except Cancelled:
        raise
    except errors.GatedRepoError as error:
        raise InputError(
            f"Found {name!r}, whose owner asks for consent first; expected access to it; accept its"
            " terms on its page, then log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"Found no revision {revision!r} of {name!r}; expected a branch, tag or commit; check"
            " its name."
        ) from error
    except (
        errors.RepositoryNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise InputError(
            f'Found no model {name!r}; expected "demo", a folder, or the id of a public Hub model;'
            " check the spelling or choose one of `svl models`."
        ) from error
    except Exception as error:  # offline, proxies, timeouts: each HTTP library has its own
        if _disk_full(error):
            raise InputError(
                f"Found no room on the disk for {name}; expected enough for its files; free some,"
                " or choose a smaller model."
            ) from error
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise Unreachable(
                f"Found {name!r} neither as a folder nor in the local cache, and the Hub cannot be"
                f' asked for it ({_short(_back(error)[-1])}); expected "demo", a folder, or a Hub'
                " id; check the spelling and the network.",
                name,
            ) from error
        return Path(cached).parent, False
    return folder, True


def _back(error: BaseException) -> list[BaseException]:
    """An error and all that it goes back to, the first cause last."""
    errors = [error]
    while (before := errors[-1].__cause__ or errors[-1].__context__) is not None:
        errors.append(before)
    return errors


def _disk_full(error: BaseException) -> bool:
    full = errno.ENOSPC, errno.EDQUOT
    return any(isinstance(cause, OSError) and cause.errno in full for cause in _back(error))


def _bar(run: Run) -> type:
    """A progress bar class that shows nothing, reports bytes to `run` (as the share 0.05 to 0.8
    of loading) and stops where it is cancelled.

    Not one of huggingface_hub's own bars, which fall silent once progress bars are switched off.
    """
    from tqdm.std import tqdm

    furthest = 0.0

    class Bar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def update(self, n=1):
            nonlocal furthest
            run.check("Stopped; what was downloaded is kept.")
            shown = super().update(n)
            # Bytes fetched and bytes put together have a bar each.
            if self.unit == "B" and self.total and self.n > furthest:
                furthest = self.n
                share = 0.05 + 0.75 * min(self.n / self.total, 1.0)
                megabytes = f"{self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB"
                run.report(share, f"downloading: {megabytes}")
            return shown

    return Bar


# What a model is


def blueprint(folder: Path, name: str) -> tuple[Any, type, bool]:
    """The config of the model in a folder, its class, and whether it takes images.

    name: as the person gave it. Raises InputError for anything that is no usable model.
    """
    return _known_config(folder, name, text_only=True)


def _known_config(folder: Path, name: str, text_only: bool):
    """(config, model class, whether it takes images).

    Raises InputError for anything that is no usable model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        packages.refuse_missing(repr(name), error)
        raise InputError(
            f"Found no readable model config at {name!r} ({_short(error)}); expected a model that"
            " the installed transformers library knows; choose one of `svl models`."
        ) from error
    model_class, takes_images = class_of(config, name, text_only)
    return config, model_class, takes_images


def read_record(folder: Path) -> dict:
    """`svl_plan.json` beside a pruned checkpoint ({} when there is none)."""
    try:
        return dict(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


# Options


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises InputError for an unknown one and one that this machine lacks.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    unknown = f"Found the device {device!r}; expected auto, cpu, cuda, cuda:1 or mps; correct it."
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(unknown) from error
    if resolved.type not in ("cpu", "cuda", "mps"):
        raise InputError(unknown)
    if resolved.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (resolved.index or 0) >= count:
            raise InputError(
                f"Found the device {device!r}, but {count} CUDA devices; expected"
                " one that exists; use --device cpu or auto."
            )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            "Found the device 'mps', which this machine lacks; use --device cpu or auto."
        )
    return resolved


def _known_quantization(quantize: str | None) -> str | None:
    if quantize is None:
        return None
    if quantize not in QUANTIZATIONS:
        raise InputError(
            f"Found the quantisation {quantize!r}; expected one of {', '.join(QUANTIZATIONS)};"
            " correct it."
        )
    if (
        importlib.util.find_spec("bitsandbytes") is None
        or importlib.util.find_spec("accelerate") is None
    ):
        raise InputError(
            f"Found {quantize} loading, but not the packages bitsandbytes and accelerate; expected"
            " both; install them with: pip install accelerate bitsandbytes."
        )
    return quantize


def _free_bytes(device: torch.device | None) -> int | None:
    """Free bytes on one device, or on all GPUs and the CPU together."""
    if device is not None:
        return memory.free_bytes(device)
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    total = 0
    for part in (*devices, torch.device("cpu")):
        free = memory.free_bytes(part)
        if free is None:
            return None
        total += free
    return total


def _short(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
