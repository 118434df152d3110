"""Loading a model's processor, also where torchvision is not installed: images need pillow only, videos are never read."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoProcessor, AutoTokenizer

from svl_core.errors import InputError


def load_processor(folder: str | Path, config, *, text_only: bool = False):
    """The processor in `folder` (a tokenizer for a text-only model). Raises InputError when it cannot be built."""
    try:
        return AutoTokenizer.from_pretrained(folder) if text_only else AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise InputError(f"Found no usable processor beside the model ({' '.join(str(error).split())[:300]}); expected its tokenizer and image processor; get the complete model folder.") from error
