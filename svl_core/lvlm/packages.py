"""Packages that some models need beside this project's own: named when they are missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator

from svl_core.errors import InputError

EXTRA = "families"
# What transformers calls a package, in lower case -> (the module, what pip calls it).
OPTIONAL = {
    "timm": ("timm", "timm"),
    "torchvision": ("torchvision", "torchvision"),
    "num2words": ("num2words", "num2words"),
    "sentencepiece": ("sentencepiece", "sentencepiece"),
    "tiktoken": ("tiktoken", "tiktoken"),
    "protobuf": ("google.protobuf", "protobuf"),
    "scipy": ("scipy", "scipy"),
    "opencv": ("cv2", "opencv-python"),
    "cv2": ("cv2", "opencv-python"),
    "pytesseract": ("pytesseract", "pytesseract"),
    "torchaudio": ("torchaudio", "torchaudio"),
    "soundfile": ("soundfile", "soundfile"),
    "librosa": ("librosa", "librosa"),
    "accelerate": ("accelerate", "accelerate"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "gguf": ("gguf", "gguf"),
    "gptqmodel": ("gptqmodel", "gptqmodel"),
    "autoawq": ("awq", "autoawq"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "compressed_tensors": ("compressed_tensors", "compressed-tensors"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "torchao": ("torchao", "torchao"),
    "flash_attn": ("flash_attn", "flash-attn"),
}
# Those that the extra installs.
IN_EXTRA = ("timm", "torchvision", "num2words", "sentencepiece", "tiktoken")


def present(module: str) -> bool:
    """Whether a module can be found, whatever importing it would do."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package around it that is missing
        return False


# Those that read older tokenizers' files: asked for also where there is no such file.
FOR_TOKENIZERS = ("sentencepiece", "tiktoken")


def missing(error: BaseException, beside: Collection[str] = ()) -> list[str]:
    """What pip calls the packages that an error asks for and that are not here; [] where it asks
    for none.

    beside: those that would not help.
    """
    told = " ".join(str(each) for each in _chain(error)).lower()
    names = [
        pip for word, (module, pip) in OPTIONAL.items() if word in told and not present(module)
    ]
    return [name for name in dict.fromkeys(names) if name not in beside]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it goes back to."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def refuse_missing(what: str, error: BaseException, beside: Collection[str] = ()) -> None:
    """Raises InputError naming the packages that an error asks for; returns where it asks for none.

    what: what was found, such as the name of a model.
    beside: see `missing`.
    """
    names = missing(error, beside)
    if not names:
        return
    packages = f"package{'s' * (len(names) > 1)} {' and '.join(names)}"
    extra = f", or this project with its extra {EXTRA!r}" if set(names) <= set(IN_EXTRA) else ""
    raise InputError(
        f"Found {what}, which needs the {packages}; expected it to be installed; install it with:"
        f" pip install {' '.join(names)}{extra}."
    ) from error
