"""What kind of model a config describes, and which kinds are not pruned here: told from the config
and its class alone, before anything is loaded.
"""

from __future__ import annotations

from typing import Any

from svl_core.errors import InputError
from svl_core.lvlm import processors

# Of a config that takes images: one of these.
IMAGE_SETTINGS = (
    "vision_config",
    "vq_config",
    "vlm_config",
    "image_size",
)


def takes_images(config) -> bool:
    """Whether a config speaks of images."""
    return any(getattr(config, name, None) is not None for name in IMAGE_SETTINGS)


def class_of(config, name: str, text_only: bool = False) -> tuple[Any, bool]:
    """The class of a model of this config, and whether it takes images.

    name: for the error.
    text_only: whether a plain causal language model will do.

    Raises InputError where a config tells that it is no decoder which reads image and question and
    writes its answer token after token.
    """
    from transformers import GenerationMixin
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    found = f"Found {name!r}, a {config.model_type} model"
    other = _other_kind(config)
    if other is not None:
        what, expected = other
        raise InputError(f"{found}, {what}; expected {expected}; choose one of `svl models`.")
    if takes_images(config) and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        classes = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        first: Any = classes[0] if isinstance(classes, (list, tuple)) else classes
        if first.can_generate() and not issubclass(first, GenerationMixin):
            raise InputError(
                f"{found}, which generates {_otherwise(first)}; expected one that writes its answer"
                " token after token; choose one of `svl models`."
            )
        return first, True
    if text_only and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], False
    if text_only and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        if model_class.__name__.endswith("ForCausalLM"):  # a text decoder all the same (Mistral 4)
            return model_class, False
    raise InputError(
        f"{found} without image input; expected one that takes images; choose one of `svl models`."
    )


def _other_kind(config) -> tuple[str, str] | None:
    """What a model is that is not pruned here, and what is expected instead; None of others."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    if _encodes_text(config):
        what = "which is an encoder-decoder"
        return what, (
            "a decoder that reads image and question itself, for only its layers are pruned here"
        )
    if getattr(config, "cross_layer_interval", None):
        what = (
            "whose picture enters through blocks of cross-attention that stand between its layers"
            " by their number"
        )
        return what, "layers that can go one by one"
    if _reads_videos_alone(config):
        return "whose processor takes videos and no pictures", "one that takes pictures"
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        what = "which classifies pictures by texts of its own"
        return what, "one that answers a question"
    return None


def _reads_videos_alone(config) -> bool:
    """Whether a model's processor has a half for videos and none for pictures."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    kind = config.model_type
    if kind in IMAGE_PROCESSOR_MAPPING_NAMES or kind not in VIDEO_PROCESSOR_MAPPING_NAMES:
        return False
    listed = PROCESSOR_MAPPING_NAMES.get(kind)
    halves = processors.halves_of(listed) if isinstance(listed, str) else ()
    return "video_processor" in halves and "image_processor" not in halves


def _otherwise(model_class: type) -> str:
    """How a model generates that does not do so token after token."""
    names = " ".join(each.__name__ for each in model_class.__mro__)
    return "by diffusion" if "Diffusion" in names else "by a method of its own"


def _encodes_text(config) -> bool:
    """Whether an encoder reads the question, in the whole model or in its part for text."""
    parts = (config, config.get_text_config(), getattr(config, "text_config", None))
    return any(getattr(part, "is_encoder_decoder", False) for part in parts)
