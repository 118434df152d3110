"""Visual tokens that leave before a layer, or that layers skip: against a decoder written out by
hand, cached against uncached, alone and with layers gone.
"""

import numpy as np
import pytest
import torch
from llama_by_hand import predictions
from tiny import tiny_llava

from svl_core.analysis.trace import trace
from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import answer_batch
from svl_core.comparison.fidelity import compare
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.families import family_of
from svl_core.lvlm.forcing import forced_logits
from svl_core.lvlm.hooks import captured_calls
from svl_core.lvlm.loading import load
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.stopping import reaching
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune
from svl_core.pruning.selectors import SELECTORS, acts, in_words
from svl_core.pruning.tokens import thin
from svl_core.pruning.view import pruned_view
from svl_core.recipe import Recipe

IDS = (7, 9, 11)
SCORED = [name for name, row in SELECTORS.items() if row.score]
CHOSEN = [name for name, row in SELECTORS.items() if row.choose]
SKIPPED = [name for name, row in SELECTORS.items() if row.parts]


def recipe(name, **settings):
    return Recipe(visual_tokens=name, **settings)


def read(lvlm, sample):
    return Decoding(lvlm, sample.inputs, features=sample.features, thinning=sample.thinning)


def embedded(lvlm, sample):
    """(S, d) what enters the decoder."""
    return reaching(lvlm, lvlm.decoder, sample)[1]["inputs_embeds"][0]


def along(lvlm, sample, ids=IDS):
    """(1 + n, vocabulary) of the model's own decode, fed token by token and all at once."""
    decoding = read(lvlm, sample)
    first, at_once = decoding.logits, decoding.fork()
    together = at_once.feed(torch.tensor([ids]))[0]
    one_by_one = torch.cat([decoding.feed(torch.tensor([[token]]))[0] for token in ids])
    assert torch.allclose(together, one_by_one, atol=1e-5)
    return torch.cat([first, one_by_one])


def hidden_keys(gone, first):
    """Keys of tokens that are gone are not seen from layer `first` on; a row must see something."""

    def seen_in(layer):
        length = gone["length"]
        seen = torch.ones(length, length, dtype=torch.bool)
        if layer >= first:
            seen[:, gone["positions"]] = False
            seen[gone["positions"], gone["positions"]] = True
        return seen

    return seen_in


def oracle_of_leaving(lvlm, sample, positions, first):
    gone = {"positions": torch.tensor(positions), "length": sample.length + len(IDS)}
    embeds = embedded(lvlm, sample)
    return predictions(lvlm, embeds, seen_in=hidden_keys(gone, first), ids=IDS)[0]


def test_the_decoder_by_hand_is_the_model(tiny, tiny_sample):
    by_hand = predictions(tiny, embedded(tiny, tiny_sample), ids=IDS)[0]
    assert torch.allclose(along(tiny, tiny_sample), by_hand, atol=1e-5)


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("leave", [1, 3, 5])
def test_tokens_that_left_at_a_layer_are_as_good_as_masked_there(tiny, tiny_sample, name, leave):
    thinned = thin(tiny, tiny_sample, recipe(name, visual_share=0.25, visual_from=leave))
    stay = thinned.thinning.stay
    assert stay.sum() == 9 and thinned.length == tiny_sample.length
    expected = oracle_of_leaving(tiny, tiny_sample, tiny_sample.visual[~stay], leave)
    assert torch.allclose(along(tiny, thinned), expected, atol=1e-5)


def the_best(scores, count=9):
    return np.sort(np.argsort(-scores, kind="stable")[:count])


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("leave", [1, 4])
def test_the_pass_itself_chooses_by_the_layer_before(tiny, tiny_sample, name, leave):
    visual = torch.tensor(np.array(tiny_sample.visual))
    weights, keys = predictions(tiny, embedded(tiny, tiny_sample))[1][leave - 1]
    scores = {
        "fastv": weights.mean(0)[-1][visual],
        "vitcop": -keys.mean(0)[visual].norm(dim=-1),
    }[name].numpy()
    going = np.setdiff1d(np.arange(36), the_best(scores))
    thinned = thin(tiny, tiny_sample, recipe(name, visual_share=0.25, visual_from=leave))
    expected = oracle_of_leaving(tiny, tiny_sample, tiny_sample.visual[going], leave)
    assert torch.allclose(along(tiny, thinned), expected, atol=1e-5)


@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize("layers", [(2,), (0, 1, 4), (0, 1, 2, 3, 4, 5)])
def test_layers_that_skip_visual_tokens_equal_layers_run_by_hand(tiny, tiny_sample, name, layers):
    is_visual = torch.zeros(tiny_sample.length, dtype=torch.bool)
    is_visual[torch.tensor(np.array(tiny_sample.visual))] = True
    left_out = dict.fromkeys(SELECTORS[name].parts, is_visual)
    expected = predictions(
        tiny,
        embedded(tiny, tiny_sample),
        skip=lambda layer: left_out if layer in layers else {},
        ids=IDS,
    )[0]
    thinned = thin(tiny, tiny_sample, recipe(name, visual_layers=layers))
    assert torch.allclose(along(tiny, thinned), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{"visual_share": 0.25, "visual_from": 2}, {}])
def test_plain_attention_gives_the_same(tiny_sample, settings):
    """Whose masks are added, and never left out."""
    model, processor = tiny_llava()
    plain = LVLM(model, processor, family_of(model.config), "tiny")
    names = CHOSEN if settings else SKIPPED
    usual = [along(plain, thin(plain, tiny_sample, recipe(name, **settings))) for name in names]
    plain.model.set_attn_implementation("eager")
    added = [along(plain, thin(plain, tiny_sample, recipe(name, **settings))) for name in names]
    for one, other in zip(usual, added, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_work_is_left_out_not_masked(tiny, tiny_sample):
    """How many positions the products of each layer see."""
    visual, length = len(tiny_sample.visual), tiny_sample.length

    def rows(sample, layer, *names):
        modules = [tiny.layers[layer].get_submodule(name) for name in names]
        counts = []
        for module in modules:
            with captured_calls(module) as calls:
                along(tiny, sample, ())[0] if False else Decoding(
                    tiny, sample.inputs, features=sample.features, thinning=sample.thinning
                )
            counts.append(sum(args[0].shape[1] for args, _ in calls))
        return counts

    every = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
    fewer = thin(tiny, tiny_sample, recipe("fastv", visual_share=0.25, visual_from=2))
    # one row of attention more, where that of the last token is computed
    assert rows(fewer, 1, *every) == [length + 1, length + 1, length + 1, length]
    assert rows(fewer, 2, *every) == [length - 27] * 4
    text = length - visual
    frozen = thin(tiny, tiny_sample, recipe("shortv", visual_layers=(3,)))
    assert rows(frozen, 3, *every) == [text, length, text, text]
    assert rows(frozen, 2, *every) == [length] * 4
    without = thin(tiny, tiny_sample, recipe("skip-attention", visual_layers=(3,)))
    assert rows(without, 3, *every) == [text, length, text, length]
    no_mlp = thin(tiny, tiny_sample, recipe("skip-mlp", visual_layers=(3,)))
    assert rows(no_mlp, 3, *every) == [length, length, length, text]


def test_caches_are_as_long_as_what_their_layer_read(tiny, tiny_sample):
    thinned = thin(tiny, tiny_sample, recipe("cluster", visual_share=0.5, visual_from=4))
    decoding = read(tiny, thinned)
    decoding.feed(torch.tensor([[7, 9]]))
    lengths = [cache.keys.shape[2] for cache in decoding._cache.layers]
    whole = tiny_sample.length + 2
    assert lengths == [whole] * 4 + [whole - 18] * 2


@pytest.mark.parametrize("name", [*SCORED, *CHOSEN])
def test_a_share_of_one_is_the_sample_itself(tiny, tiny_sample, name):
    assert thin(tiny, tiny_sample, recipe(name, visual_share=1.0, visual_from=2)) is tiny_sample
    assert not acts(recipe(name)) and in_words(recipe(name)) == ""


@pytest.mark.parametrize("name", [*CHOSEN, *SKIPPED, "cluster"])
def test_with_layers_gone_it_is_the_shorter_model_thinned(tiny, tiny_sample, name):
    """Layers count in the original model; the shorter one alone gives the same at its own."""
    keep = [0, 1, 3, 4, 5]
    pruned = pruned_view(tiny, keep)
    share = 1.0 if name in SKIPPED else 0.25
    here = thin(tiny, tiny_sample, recipe(name, visual_share=share, visual_from=3))
    alone = LVLM(pruned.model, tiny.processor, tiny.family, "shorter")
    there = thin(alone, tiny_sample, recipe(name, visual_share=share, visual_from=2))
    assert torch.equal(along(pruned, here), along(alone, there))


def test_batches_answers_and_comparisons_take_it(tiny, tiny_sample, monkeypatch):
    monkeypatch.setattr(type(tiny), "eos_token_ids", property(lambda self: ()))
    other = tiny.encode(tiny_sample.images[0], "a cat and a dog sit")
    pruned = prune(tiny, manual_plan([2], 6))
    for name in (*CHOSEN, *SKIPPED):
        wanted = recipe(name, visual_share=0.3, visual_from=2)
        samples = [thin(tiny, sample, wanted) for sample in (tiny_sample, other, tiny_sample)]
        one_by_one = [answer(pruned, x, max_new_tokens=5).token_ids for x in samples]
        assert answer_batch(pruned, samples, max_new_tokens=5) == one_by_one
        report = compare(tiny, pruned, tiny_sample, max_new_tokens=5, pruned_sample=samples[0])
        assert report.pruned.token_ids == one_by_one[0]
        [forced] = forced_logits(pruned, samples[:1], [one_by_one[0]])
        assert tuple(forced.argmax(-1).tolist()) == one_by_one[0]


@pytest.mark.parametrize("compensation", ["scp", "lstsq"])
def test_with_a_compensation_it_is_the_edited_model_thinned(tiny, tiny_sample, compensation):
    traced = trace(tiny, tiny_sample, mlp=True)
    pruned = prune(tiny, manual_plan([2, 3], 6), compensation, traced)
    wanted = recipe("cluster", visual_share=0.25, visual_from=4)
    thinned = thin(tiny, tiny_sample, wanted)
    going = tiny_sample.visual[~thinned.thinning.stay]
    gone = {"positions": torch.tensor(going), "length": tiny_sample.length + len(IDS)}
    embeds = embedded(tiny, tiny_sample)
    expected, _ = predictions(pruned, embeds, seen_in=hidden_keys(gone, 2), ids=IDS)
    assert torch.allclose(along(pruned, thinned), expected, atol=1e-5)


def test_with_weights_of_8_bits(tiny, tiny_sample, tmp_path):
    """The rounding moves the answers no further than it moves those of the whole sequence."""
    pytest.importorskip("bitsandbytes")
    tiny.save(tmp_path / "model")
    small = load(tmp_path / "model", quantize="8bit", device="cpu")

    def moved(sample):
        exact, rounded = (decoded(model, sample) for model in (tiny, small))
        return float((exact - rounded).abs().mean())

    def decoded(model, sample):
        decoding = read(model, sample)
        return torch.cat([decoding.logits, decoding.feed(torch.tensor([IDS]))[0]])

    whole = moved(tiny_sample)
    for name in (*CHOSEN, *SKIPPED, "cluster"):
        settings = {"visual_share": 0.25, "visual_from": 2}
        assert moved(thin(small, tiny_sample, recipe(name, **settings))) < 2 * whole, name


def test_a_thinned_sample_is_not_traced_as_a_whole_one(tiny, tiny_sample):
    thinned = thin(tiny, tiny_sample, recipe("shortv", visual_layers=(2,)))
    with pytest.raises(InputError, match="trace the sample that it was made of"):
        trace(tiny, thinned)


def test_evenly_spaced_tokens_and_draws(tiny, tiny_sample):
    def stay(name, share, **settings):
        settings = {"visual_share": share, "visual_from": 1, **settings}
        thinned = thin(tiny, tiny_sample, recipe(name, **settings))
        return np.flatnonzero(thinned.thinning.stay).tolist()

    assert stay("cluster", 0.25) == list(range(0, 36, 4))
    assert stay("cluster", 0.3) == list(range(0, 33, 3))  # 11 of 36, every third
    draws = [stay("random", 0.25, seed=seed) for seed in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1] and len(draws[1]) == 9


def test_refusals(tiny, tiny_sample):
    with pytest.raises(InputError, match="selector 'best'; expected one of tis, random"):
        thin(tiny, tiny_sample, recipe("best", visual_share=0.5))
    with pytest.raises(InputError, match="at the input; expected a layer from 1 on"):
        thin(tiny, tiny_sample, recipe("fastv", visual_share=0.5))
    with pytest.raises(InputError, match="the layer 6 .*from 0 to 5 of tiny"):
        thin(tiny, tiny_sample, recipe("random", visual_share=0.5, visual_from=6))
    with pytest.raises(InputError, match="the layer 9 .*from 0 to 5"):
        thin(tiny, tiny_sample, recipe("shortv", visual_layers=(2, 9)))
    with pytest.raises(InputError, match="no layer from 7 on"):
        thin(tiny, tiny_sample, recipe("shortv", visual_from=7))
    headless = pruned_view(tiny, [2, 3])
    thinned = thin(tiny, tiny_sample, recipe("cluster", visual_share=0.5, visual_from=2))
    with pytest.raises(InputError, match="no layer left before layer 2"):
        answer(headless, thinned, max_new_tokens=2)
