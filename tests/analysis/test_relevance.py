"""Which patches a word depends on: against autograd, on a map that is known, and on one that is
shuffled. Every family is in `tests/families/test_family_lens.py`.
"""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from tiny import picture, tiny_llava

import svl_core as svl
from svl_core.analysis import relevance
from svl_core.analysis.relevance import Occlusion, Relevance
from svl_core.lvlm import recomputing
from svl_core.lvlm.families import family_of
from svl_core.lvlm.hooks import ThreadHooks
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.recomputing import kept_bytes


@pytest.fixture(scope="module")
def two_layers():
    """LVLM of two layers, and a question for it."""
    model, processor = tiny_llava(2, seed=3)
    lvlm = LVLM(model, processor, family_of(model.config), "two layers")
    return lvlm, lvlm.encode(picture(), "a cat")


def by_hand(lvlm, sample, answer, place):
    """Autograd on embeddings that the test puts together: words, and the projected features."""
    ids = torch.cat([sample.inputs["input_ids"], torch.tensor([answer[:place]], dtype=int)], 1)
    core = lvlm.model.model
    vision = core.vision_tower(sample.inputs["pixel_values"]).last_hidden_state[:, 1:]
    embedded = core.get_input_embeddings()(ids)
    embedded[0, sample.visual] = core.multi_modal_projector(vision)[0]
    embedded.requires_grad_()
    logits = lvlm.model.lm_head(core.language_model(inputs_embeds=embedded).last_hidden_state)
    logit = logits[0, -1, answer[place]]
    logit.backward()
    products = (embedded.grad * embedded).detach().sum(-1)
    return float(logit.detach()), products[0, sample.visual].numpy()


@pytest.mark.parametrize("place", [0, 2])
def test_it_is_autograd_on_a_two_layer_model(two_layers, place):
    lvlm, sample = two_layers
    answer = [9, 30, 41]
    logit, expected = by_hand(lvlm, sample, answer, place)
    for asked in (sample, svl.trace(lvlm, sample).samples[0].sample):  # image seen before, or not
        found = svl.relevance(lvlm, asked, answer, place)
        assert found.logit == pytest.approx(logit, abs=1e-5)
        assert np.allclose(found.values, expected, atol=1e-6)


def test_a_map_holds_and_its_shuffle_does_not():
    """On the bundled model, asked what lies at one of its nine places: the object's four patches
    say it. The same numbers at other patches say nothing.
    """
    from svl_core.demo.questions import calibration

    lvlm = svl.load("demo")
    image, prompt = next(
        (image, prompt)
        for image, prompt in calibration(60, 7)
        if prompt.startswith("name the object in the")
    )
    sample = svl.trace(lvlm, lvlm.encode(image, prompt)).samples[0].sample
    said = svl.answer(lvlm, sample).token_ids
    found = svl.relevance(lvlm, sample, said)
    check = svl.occlusion(lvlm, sample, said, found, draws=8)
    assert check.covered == 4 and check.whole > 0.9
    assert check.holds and check.drop > 0.5 > check.random_drop
    shuffled = np.random.default_rng(1).permutation(found.values)
    failed = svl.occlusion(lvlm, sample, said, replace(found, values=shuffled), draws=8)
    assert not failed.holds
    assert np.array_equal(failed.without_random, check.without_random)  # the same draws


def test_a_covered_patch_is_the_mean_of_all(two_layers):
    """All patches covered: whatever the map says, each choice gives the first layer the mean."""
    lvlm, sample = two_layers
    answer = [9, 30]
    found = svl.relevance(lvlm, sample, answer, 1)
    check = svl.occlusion(lvlm, sample, answer, found, covered=36, draws=2)
    features = svl.trace(lvlm, sample).samples[0].features[0]
    mean = features[sample.visual].mean(0)

    def meaned(args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] == sample.length:
            hidden[0, sample.visual] = mean

    with ThreadHooks() as hooks:
        hooks.on_input(lvlm.layers[0], meaned)
        expected = svl.lens(lvlm, sample, answer).probability[-1, 1]
    assert check.without_relevant == pytest.approx(float(expected), rel=1e-4)
    assert check.without_random == pytest.approx([float(expected)] * 2, rel=1e-4)
    whole = svl.lens(lvlm, sample, answer).probability[-1, 1]
    assert check.whole == pytest.approx(float(whole), rel=1e-4)
    assert not check.holds


def test_the_bias_toward_early_places_is_told():
    early = Relevance("cat", 0, 1.0, np.array([-4.0, 3.0, -2.0, 1.0]))
    assert early.place_bias == pytest.approx(-1)
    assert replace(early, values=np.array([1.0, 2.0, 3.0])).place_bias == pytest.approx(1)
    assert np.isnan(replace(early, values=np.array([1.0, 2.0])).place_bias)


def test_the_check_is_told_in_a_sentence():
    check = Occlusion(2, 0.9, 0.1, np.array([0.8, 0.7]))
    assert check.drop == pytest.approx(0.8) and check.random_drop == pytest.approx(0.15)
    assert check.in_words() == (
        "With the 2 most relevant patches covered the word's probability goes from 90.0% to"
        " 10.0%; with random ones to 75.0% on average. They matter more than 2 random choices."
    )
    assert "no more than some of 2" in replace(check, without_relevant=0.75).in_words()
    hardly = replace(check, without_relevant=0.895, without_random=np.array([0.9, 0.9]))
    assert not hardly.holds  # more than the random ones, but next to nothing
    assert hardly.in_words().endswith("Covering them hardly changes the word.")
    assert repr(check) == "Occlusion(covered=2, drop=0.8, random_drop=0.15, holds=True)"


def test_it_is_cancelled_forwards_and_backwards(two_layers):
    """Once nobody wants it, at the next layer: 2 on the way there, 1 on the way back."""
    lvlm, sample = two_layers

    class After:
        def __init__(self, checks):
            self.left = checks

        def is_set(self):
            self.left -= 1
            return self.left < 0

    for keep in (2**40, 0):  # bytes: all is kept, or each layer is computed again
        whole = After(100)
        svl.relevance(lvlm, sample, [9], keep=keep, run=svl.Run(cancel=whole))
        checks = 100 - whole.left
        assert checks == 4  # two layers, both ways
        for count in range(checks):
            with pytest.raises(svl.Cancelled):
                svl.relevance(lvlm, sample, [9], keep=keep, run=svl.Run(cancel=After(count)))
    stop = Event()
    stop.set()
    found = svl.relevance(lvlm, sample, [9])
    with pytest.raises(svl.Cancelled):
        svl.occlusion(lvlm, sample, [9], found, run=svl.Run(cancel=stop))


class Kept:
    """Bytes of activations that are kept for a backward pass: now, and at most."""

    def __init__(self, lvlm):
        self.of_model = {weight.untyped_storage().data_ptr() for weight in lvlm.model.parameters()}
        self.now, self.most, self.counted = 0, 0, {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def pack(self, tensor):
        return Held(self, tensor)


class Held:
    """A tensor that is kept; its storage counts once, until the last of its holders goes."""

    def __init__(self, kept, tensor):
        self.kept, self.tensor = kept, tensor.detach()
        self.key = tensor.untyped_storage().data_ptr()
        self.size = 0 if self.key in kept.of_model else tensor.untyped_storage().nbytes()
        kept.counted[self.key] = kept.counted.get(self.key, 0) + 1
        if kept.counted[self.key] == 1:
            kept.now += self.size
            kept.most = max(kept.most, kept.now)

    def __del__(self):
        self.kept.counted[self.key] -= 1
        if not self.kept.counted[self.key]:
            self.kept.now -= self.size


@pytest.mark.parametrize("place", [0, 2])
def test_layers_that_are_computed_again_give_the_same_gradients(two_layers, place):
    lvlm, sample = two_layers
    answer = [9, 30, 41]
    kept = svl.relevance(lvlm, sample, answer, place, keep=2**40)
    for asked in (sample, svl.trace(lvlm, sample).samples[0].sample):
        anew = svl.relevance(lvlm, asked, answer, place, keep=0)
        assert anew.logit == pytest.approx(kept.logit, abs=1e-6)
        assert np.abs(anew.values - kept.values).max() < 1e-5 * np.abs(kept.values).max()


def test_memory_that_is_asked_for_is_not_filled():
    """Six layers, counted tensor by tensor: hardly more than what enters each of them is kept; with
    what one layer makes, which its second run holds for a while, that is less than half of what all
    of them make. The estimate covers all.
    """
    model, processor = tiny_llava(6, seed=3)
    lvlm = LVLM(model, processor, family_of(model.config), "six layers")
    sample = lvlm.encode(picture(), "a cat")
    most = {}
    for keep in (2**40, 0):
        with Kept(lvlm) as kept:
            svl.relevance(lvlm, sample, [9], keep=keep)
        most[keep] = kept.most
        assert kept.now == 0
    whole, entering = most[2**40], most[0]
    estimate = kept_bytes(lvlm, sample.length)
    assert estimate / 2 < whole < estimate
    inputs = 6 * sample.length * 64 * 4
    assert inputs <= entering < 1.25 * inputs
    assert entering + whole / 6 < whole / 2


def test_layers_are_computed_again_only_where_memory_asks(two_layers, monkeypatch):
    lvlm, sample = two_layers
    needed = kept_bytes(lvlm, sample.length)
    made = []
    remade = relevance.recomputed
    monkeypatch.setattr(relevance, "recomputed", lambda lvlm: made.append(1) or remade(lvlm))
    svl.relevance(lvlm, sample, [9], keep=needed)
    assert not made
    svl.relevance(lvlm, sample, [9], keep=needed - 1)
    assert len(made) == 1
    monkeypatch.setattr(recomputing, "free_bytes", lambda device: 4 * needed)
    svl.relevance(lvlm, sample, [9])
    assert len(made) == 1  # a quarter of the free memory will do
    monkeypatch.setattr(recomputing, "free_bytes", lambda device: 4 * needed - 4)
    svl.relevance(lvlm, sample, [9])
    assert len(made) == 2
    monkeypatch.setattr(recomputing, "free_bytes", lambda device: None)
    svl.relevance(lvlm, sample, [9])
    assert len(made) == 2  # so small a model asks for nothing


def test_nothing_is_left_behind(two_layers):
    """No gradient, no hook, and the model answers as before."""
    lvlm, sample = two_layers
    before = svl.lens(lvlm, sample, [9]).probability
    svl.relevance(lvlm, sample, [9])
    svl.relevance(lvlm, sample, [9], keep=0)
    assert all(parameter.grad is None for parameter in lvlm.model.parameters())
    assert not any(layer._forward_pre_hooks for layer in lvlm.layers)
    assert np.array_equal(svl.lens(lvlm, sample, [9]).probability, before)


def test_it_says_what_is_wrong(two_layers):
    lvlm, sample = two_layers
    with pytest.raises(svl.InputError, match="Found no visual positions; expected an image"):
        svl.relevance(lvlm, lvlm.encode(None, "a cat"), [9])
    with pytest.raises(svl.InputError, match="Found place 1 of an answer of 1 tokens; expected 0"):
        svl.relevance(lvlm, sample, [9], 1)
    found = svl.relevance(lvlm, sample, [9])
    with pytest.raises(svl.InputError, match="Found 37 patches to cover in 20 draws; expected 1"):
        svl.occlusion(lvlm, sample, [9], found, covered=37)
