"""Kinds of models that are refused by their configs alone, each with the true reason."""

import re

import pytest
import transformers
from zoo_h_to_z import ZOO

from svl_core.errors import InputError
from svl_core.lvlm import kinds
from svl_core.lvlm.probing import refuse_without_layers
from svl_core.lvlm.skeleton import empty

REFUSED = {
    "idefics": "whose picture enters through blocks of cross-attention that stand between its"
    " layers by their number; expected layers that can go one by one",
    "instructblipvideo": "whose processor takes videos and no pictures; expected one that takes"
    " pictures",
    "shieldgemma2": "which classifies pictures by texts of its own; expected one that answers a"
    " question",
}


def test_a_class_and_whether_it_takes_images():
    found = kinds.class_of(transformers.LlavaConfig(), "x")
    assert found == (transformers.LlavaForConditionalGeneration, True)
    found = kinds.class_of(transformers.LlamaConfig(), "x", text_only=True)
    assert found == (transformers.LlamaForCausalLM, False)


def test_diffusion_is_told():
    with pytest.raises(
        InputError,
        match="Found 'x', a diffusion_gemma model, which generates by diffusion; expected one that"
        " writes its answer token after token; choose one of `svl models`",
    ):
        kinds.class_of(transformers.DiffusionGemmaConfig(), "x")


def test_another_way_to_generate_is_told(monkeypatch):
    class OwnGenerationMixin:
        pass

    class Policy(transformers.PreTrainedModel, OwnGenerationMixin):
        config_class = transformers.LlavaConfig

    mapping = {transformers.LlavaConfig: Policy}
    home = "transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING"
    monkeypatch.setattr(home, mapping)
    with pytest.raises(InputError, match="which generates by a method of its own; expected"):
        kinds.class_of(transformers.LlavaConfig(), "x")


@pytest.mark.parametrize("config", [transformers.EvollaConfig, transformers.LlamaConfig])
def test_no_image_input_is_told(config):
    with pytest.raises(InputError, match="model without image input; expected one that takes"):
        kinds.class_of(config(), "x")


@pytest.mark.parametrize("config", [transformers.BlipConfig, transformers.GitConfig])
def test_an_image_beside_the_sequence_is_told(config):
    made = config()
    model = empty(kinds.class_of(made, "x")[0], made)
    with pytest.raises(
        InputError,
        match=f"Found x, a {made.model_type} model without a list of decoder layers, in which no"
        " token of the sequence stands for an image; expected one whose layers read image and"
        " question in one sequence; choose a model of `svl models`",
    ):
        refuse_without_layers(model, "x")


@pytest.mark.parametrize("entry", REFUSED)
def test_another_kind_is_named(entry):
    config, _ = ZOO[entry]()
    found = f"Found 'x', a {entry} model, {REFUSED[entry]}; choose one of `svl models`."
    with pytest.raises(InputError, match=re.escape(found)):
        kinds.class_of(config, "x")


def test_a_text_decoder_of_the_mapping_is_a_control_alone():
    """Mistral 4 stands among those that read images, and does so only as a part of Mistral 3."""
    config = transformers.Mistral4Config(num_hidden_layers=2)
    with pytest.raises(InputError, match="a mistral4 model without image input"):
        kinds.class_of(config, "x")
    model_class, takes_images = kinds.class_of(config, "x", text_only=True)
    assert model_class.__name__ == "Mistral4ForCausalLM" and not takes_images


def test_a_processor_that_takes_both_is_none_of_videos_alone():
    config = transformers.AutoConfig.for_model("qwen3_vl_moe")
    assert kinds.class_of(config, "x")[1]
