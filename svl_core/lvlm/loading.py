"""Loading a model: the bundled one, a local folder, or a Hub id. The only place that touches the network."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from svl_core.errors import InputError
from svl_core.lvlm import families
from svl_core.lvlm.model import LVLM, PLAN_FILE, quiet
from svl_core.lvlm.processors import load_processor

DEMO = "demo"
DEMO_PLACES = (Path(__file__).resolve().parents[2] / "assets" / "demo_lvlm", Path("assets") / "demo_lvlm")  # beside the package in a clone; the working folder


def load(name: str | Path = DEMO, *, revision: str | None = None, device: str = "auto", dtype: str | torch.dtype = "auto", text_only: bool = False) -> LVLM:
    """Loads a vision-language model in evaluation mode, without gradients.

    name: "demo" (bundled), a folder, or a Hub id; revision: branch, tag or commit of a Hub id.
    device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps"; dtype: "auto" (as stored), "float32", "bfloat16", "float16".
    text_only: allow a plain causal language model as a control without images.
    Raises InputError for a name that leads to no model, a model without image input, and unknown devices or dtypes.
    """
    folder, commit = locate(str(name), revision)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Found no readable model config at {str(name)!r} ({_short(error)}); expected a model that the installed transformers library knows; choose one of `svl models`.") from error
    sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and hasattr(config, "vision_config")
    if not sees and not (text_only and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise InputError(f"Found {str(name)!r}, a {config.model_type} model without image input; expected one that takes images; choose one of `svl models`.")
    device, dtype = resolve_device(device), resolve_dtype(dtype)
    processor = load_processor(folder, config, text_only=not sees)
    try:
        with quiet():
            model = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise InputError(f"Found {str(name)!r}, but its weights cannot be loaded ({_short(error)}); expected a complete checkpoint; download it again.") from error
    model = model.to(device).eval().requires_grad_(False)
    plan = read_plan(folder)
    return LVLM(model, processor, families.family_of(config), str(name), commit, tuple(plan.get("layer_ids", ())), {key: value for key, value in plan.items() if key not in ("layer_ids", "model", "revision", "versions")})


def locate(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The local folder of a model, downloaded if it is a Hub id, and the commit it stands for."""
    if name == DEMO:
        folder = next((place for place in DEMO_PLACES if (place / "config.json").is_file()), None)
        if folder is None:
            raise InputError("Found no bundled model; expected it in assets/demo_lvlm beside svl_core; run from a clone of the repository or name another model.")
        return folder, None
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"Found a folder {name!r} without config.json; expected a transformers checkpoint; give the folder that holds the model.")
        return folder, None
    if folder.exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise InputError(f"Found no folder {name!r}; expected a model's folder or a Hub id such as org/model; check the path.")
    return download(name, revision)


def download(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The Hub snapshot of `name`, from the local cache where it is complete or the Hub cannot be reached."""
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    try:
        config = hf_hub_download(name, "config.json", revision=revision)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]))
    except errors.GatedRepoError as error:
        raise InputError(f"Found {name!r}, whose owner asks for consent first; expected access to it; accept its terms on its page, then log in with `hf auth login`.") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"Found no revision {revision!r} of {name!r}; expected a branch, tag or commit; check its name.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(f"Found no model {name!r}; expected \"demo\", a folder, or the id of a public Hub model; check the spelling or choose one of `svl models`.") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"Found {name!r} neither as a folder nor as a Hub model with a config that can be reached or is in the local cache; expected \"demo\", a folder, or a Hub id; check the spelling and the network.") from error
    except Exception as error:  # offline, proxies, timeouts: each HTTP library has its own
        raise InputError(f"Found no folder {name!r}, and the Hub cannot be asked for it ({_short(error)}); expected \"demo\", a folder, or a Hub id; check the spelling and the network.") from error
    commit = Path(config).parent.name
    return folder, commit if len(commit) == 40 else revision


def read_plan(folder: Path) -> dict:
    """The record beside a pruned checkpoint ({} when there is none)."""
    try:
        return dict(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def resolve_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"Found the device {device!r}; expected auto, cpu, cuda, cuda:1 or mps; correct it.") from error
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"Found the device {device!r}, but {torch.cuda.device_count()} CUDA devices; expected one that exists; use --device cpu or auto.")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("Found the device 'mps', which this machine lacks; use --device cpu or auto.")
    return found


def resolve_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    names = {"auto": "auto", **{name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}}
    if dtype in names.values():
        return dtype
    if dtype not in names:
        raise InputError(f"Found the dtype {dtype!r}; expected one of {', '.join(names)}; correct it.")
    return names[dtype]


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
