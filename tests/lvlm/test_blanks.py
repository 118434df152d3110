"""Models without weights: made once for each config, and copied without a trace of each other."""

import copy
import gc
import weakref

import pytest
import torch
from tiny import tiny_llava

from svl_core.lvlm import blanks, cutting, families, skeleton
from svl_core.lvlm.model import LVLM
from svl_core.pruning.view import pruned_view


def cut(model, keep):
    return cutting.cut_config(model.config, keep, len(families.decoder_layers(model)))


@pytest.fixture
def counted(monkeypatch):
    """The configs that a skeleton was constructed for."""
    made, empty = [], skeleton.empty

    def counting(model_class, config):
        made.append(config)
        return empty(model_class, config)

    monkeypatch.setattr(skeleton, "empty", counting)
    return made


def test_a_skeleton_is_constructed_once_for_each_number_of_layers(counted):
    """Which layers go changes nothing in this family's config; the full model's config does."""
    model, _ = tiny_llava()
    for keep in ((0, 1, 2, 5), (0, 2, 4, 5), (0, 1, 2, 5)):
        skeleton.with_layers(model, keep)
    assert len(counted) == 1
    skeleton.with_layers(model, (0, 5))
    assert [config.text_config.num_hidden_layers for config in counted] == [4, 2]
    model.config.text_config.rms_norm_eps = 0.5
    view = skeleton.with_layers(model, (0, 5))
    assert len(counted) == 3
    assert view.get_decoder().norm.variance_epsilon == 0.5


def test_the_last_ones_used_are_remembered(counted, monkeypatch):
    monkeypatch.setattr(blanks, "MOST", 2)
    model, _ = tiny_llava()
    for count in (1, 2, 1, 3, 1):
        skeleton.with_layers(model, range(count))
    assert len(counted) == 3
    skeleton.with_layers(model, range(2))
    assert len(counted) == 4


def test_copies_share_nothing_that_can_be_changed(tiny, tiny_sample):
    """Attention, training, hooks and weights of one view are unknown to the next one."""
    first = pruned_view(tiny, (0, 2, 5)).model
    with torch.inference_mode():
        before = first(**tiny_sample.inputs).logits
    first.set_attn_implementation("eager")
    first.config.text_config.rope_parameters["rope_theta"] = 7.0
    first.train()
    first.get_decoder().layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.ones(64, 128))
    first.get_decoder().layers[1].register_forward_hook(lambda *passed: torch.ones(1))
    del first.get_decoder().layers[2]
    second = pruned_view(tiny, (0, 2, 5)).model
    with torch.inference_mode():
        assert torch.equal(second(**tiny_sample.inputs).logits, before)
    assert second.config._attn_implementation != "eager" and not second.training
    assert second.config.text_config.rope_parameters["rope_theta"] != 7.0
    modules = {id(module) for module in first.modules()}
    assert not modules & {id(module) for module in second.modules()}


def test_a_copy_is_what_the_constructors_make(tiny):
    """Names, kinds and attributes, each module's config within the model's."""
    model, config = tiny.model, cut(tiny.model, (0, 2, 5))
    made = skeleton.empty(type(model), config)
    same = blanks.copied(made)
    own = {id(part) for part in (same.config, same.config.text_config, same.config.vision_config)}
    for (name, left), (other, right) in zip(
        made.named_modules(), same.named_modules(), strict=True
    ):
        assert (
            name == other and type(left) is type(right) and vars(left).keys() == vars(right).keys()
        )
        assert left.extra_repr() == right.extra_repr()
        if "config" in vars(right):
            assert right.config == left.config and right.config is not left.config
            assert id(right.config) in own, name
    assert all(a is b for a, b in zip(made.parameters(), same.parameters(), strict=True))


def test_what_was_made_goes_with_the_full_model(counted):
    model, processor = tiny_llava()
    lvlm = LVLM(model, processor, families.family_of(model.config), "tiny")
    pruned = pruned_view(lvlm, (0, 5))
    gone = weakref.ref(model)
    del model, lvlm
    gc.collect()
    assert gone() is None and pruned.num_layers == 2


def test_a_value_that_refers_to_a_module_refers_to_its_copy():
    """A bound method among a module's attributes, as transformers keeps some."""
    outer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    outer.called, outer.listed, outer.sizes = outer[0].forward, [outer[1]], {"a": [1]}
    same = blanks.copied(outer)
    assert same.called.__self__ is same[0] and same.listed[0] is same[1]
    assert same.sizes == {"a": [1]} and same.sizes["a"] is not outer.sizes["a"]
    assert torch.equal(same(torch.ones(1, 2)), outer(torch.ones(1, 2)))
    assert copy.deepcopy(same)[0].weight.shape == (2, 2)
