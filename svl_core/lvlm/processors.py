"""Loading a model's processor, also where torchvision is not installed: images need pillow only,
videos are never read.

Stock processors of several families ask for torchvision (or num2words, timm) at construction
because of their video half. Here they are then built without that half; its settings are kept, so
that saving loses nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.configuration_auto import (
    model_type_to_module_name,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

from svl_core.errors import InputError
from svl_core.lvlm import packages

# Stock class -> the class of the same form that reads no videos.
WITHOUT_VIDEO = {"SmolVLMProcessor": "Idefics3Processor"}
KEPT = ("image_processor", "tokenizer")
LEFT_OUT = (
    "video_processor",
    "feature_extractor",
    "audio_processor",
)
HALVES = "a processor beside the model"
PROCESSOR_FILE = "processor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"


def load_processor(
    folder: str | Path,
    config,
    *,
    text_only: bool = False,
):
    """The processor in `folder` (a tokenizer for a text-only model).

    Raises InputError when it cannot be built.
    """
    folder = Path(folder)
    older = [*folder.glob("*.model"), *folder.glob("*.tiktoken")]
    beside = () if older else packages.FOR_TOKENIZERS
    try:
        if text_only:
            return AutoTokenizer.from_pretrained(folder)
        try:
            return AutoProcessor.from_pretrained(folder)
        except Exception as stock:  # processors fail in as many ways as there are classes
            try:
                return _still(folder, config)
            except Exception as still:
                packages.refuse_missing(HALVES, still, beside)
                files_lack = isinstance(still, (OSError, ValueError)) and packages.missing(
                    stock, beside
                )
                raise (still if files_lack else stock) from None
    except Exception as error:
        packages.refuse_missing(HALVES, error, beside)
        reason = " ".join(str(error).split()).split(". ")[0][:300]
        remedy = (
            "install what it asks for"
            if isinstance(error, ImportError)
            else "get the complete model folder"
        )
        raise InputError(
            f"Found no usable processor beside the model ({reason}); expected its tokenizer and"
            f" image processor; {remedy}."
        ) from error


class _LeftOut:
    """Stands in for a half that is left out: it gives no inputs, and has none of the settings that
    some constructors read of it (MiniCPM-V).
    """

    @property
    def model_input_names(self) -> list[str]:
        return []

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _Lenient(ProcessorMixin):
    """Between a stock class and `ProcessorMixin`: takes None for the halves that are left out."""

    def __init__(self, *args, **kwargs):
        super().__init__(
            *(arg for arg in args if arg is not None),
            **{name: value for name, value in kwargs.items() if value is not None},
        )


@functools.lru_cache
def still_class(name: str) -> Any:
    """The processor class `name` for still images: without its video and audio halves, under its
    own name.
    """
    stock: Any = _class(WITHOUT_VIDEO.get(name, name))
    halves = stock.get_attributes()

    class Still(stock, _Lenient):  # type: ignore[misc]  # a base that is known when it runs
        @classmethod
        def get_attributes(cls):
            return [half for half in halves if half in KEPT]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args, **kwargs):
            loaded = iter(super()._get_arguments_from_pretrained(*args, **kwargs))
            return [next(loaded) if half in KEPT else None for half in halves]

        def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
            # Not the stock class's own, which may write files of the halves that are left out.
            written = ProcessorMixin.save_pretrained(self, save_directory, push_to_hub, **kwargs)
            for file, left_out in getattr(self, "_left_out", {}).items():
                path = Path(save_directory) / file
                path.write_text(
                    json.dumps({**_read(path), **left_out}, indent=2) + "\n",
                    encoding="utf-8",
                )
            return written

    for half in set(halves) - set(KEPT):
        setattr(Still, half, _LeftOut())
    Still.__name__ = Still.__qualname__ = stock.__name__
    return Still


def halves_of(name: str) -> tuple[str, ...]:
    """What the processor class `name` is made of: "image_processor", "tokenizer", .."""
    stock: Any = _class(name)
    return tuple(stock.get_attributes())


def _still(folder: Path, config):
    settings = _read(folder / PROCESSOR_FILE)
    listed = (
        settings.get("processor_class")
        or _read(folder / "preprocessor_config.json").get("processor_class")
        or PROCESSOR_MAPPING_NAMES[config.model_type]
    )
    name = listed if isinstance(listed, str) else listed[0]
    processor = still_class(name).from_pretrained(folder)
    left_out = {
        PROCESSOR_FILE: {name: value for name, value in settings.items() if name in LEFT_OUT},
        VIDEO_FILE: _read(folder / VIDEO_FILE),
    }
    processor._left_out = {file: values for file, values in left_out.items() if values}
    return processor


def _class(name: str) -> type:
    """A processor class by name, from its own module: the package's top level hides those whose
    requirements are missing.
    """
    modules = [
        model_type_to_module_name(model_type)
        for model_type, listed in PROCESSOR_MAPPING_NAMES.items()
        if name in ((listed,) if isinstance(listed, str) else listed)
    ]
    for module in dict.fromkeys([name.removesuffix("Processor").lower(), *modules]):
        path = f"transformers.models.{module}"
        if (
            importlib.util.find_spec(path) is None
            or importlib.util.find_spec(f"{path}.processing_{module}") is None
        ):
            continue
        with _pillow_stand_in(path, module):
            processing = importlib.import_module(f"{path}.processing_{module}")
            processor_class = getattr(processing, name, None)
        if processor_class is not None:
            return processor_class
    raise InputError(
        f"Found the processor class {name!r}, which the installed transformers library lacks;"
        " update it."
    )


@contextlib.contextmanager
def _pillow_stand_in(path: str, module: str):
    """While a processor's module is imported without torchvision, the pillow image processor's
    module answers for the torchvision one, whose helper functions it also has (Pixtral).
    """
    needed = f"{path}.image_processing_{module}"
    pillow = f"{path}.image_processing_pil_{module}"
    stands_in = (
        needed not in sys.modules
        and importlib.util.find_spec("torchvision") is None
        and importlib.util.find_spec(pillow) is not None
    )
    if stands_in:
        sys.modules[needed] = importlib.import_module(pillow)
    try:
        yield
    finally:
        if stands_in:
            del sys.modules[needed]


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
