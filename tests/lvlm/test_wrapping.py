"""A person's own models, of classes that transformers does not know: their parts are found, passes
of what they become equal their own, and what cannot be found is said.
"""

import numpy as np
import own_models
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import hooks
from svl_core.lvlm.batching import batches, shape_key

QUESTION = "what is in the top left ?"
MODELS = {"owl": own_models.owl, "captain": own_models.captain}


@pytest.fixture(scope="module", params=MODELS)
def brought(request):
    """(the person's model, encode, LVLM, sample)."""
    model, tokenizer, encode = MODELS[request.param]()
    lvlm = svl.wrap(model, encode=encode, tokenizer=tokenizer, name=request.param)
    return model, encode, lvlm, lvlm.encode(picture(), QUESTION)


def entering(model, inputs):
    """What enters the first layer, by the model's own functions; and the layers."""
    if isinstance(model, own_models.Owl):
        hidden, modality = model.prepared(inputs["input_ids"], inputs["images"], 0)
        length = hidden.shape[1]
        mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        return hidden, [lambda x, at=at: at(x, modality, mask)[0] for at in model.layers]
    return model.embedded(inputs["input_ids"]), list(model.transformer.h)


def logits_by_hand(model, inputs, keep):
    """Only some layers run, one after the other."""
    hidden, layers = entering(model, inputs)
    for number in keep:
        hidden = layers[number](hidden)
    if isinstance(model, own_models.Owl):
        return model.lm_head(model.norm(hidden))
    return model.lm_head(model.transformer.ln_f(hidden))


# What is found


def test_the_parts_are_found(brought):
    model, _, lvlm, _ = brought
    layers = model.layers if isinstance(model, own_models.Owl) else model.transformer.h
    assert lvlm.layers is layers and lvlm.num_layers == 6 and lvlm.hidden_size == 32
    assert lvlm.model.get_output_embeddings() is model.lm_head
    assert isinstance(lvlm, svl.LVLM) and lvlm.brought and lvlm.protected == ()


def test_visual_positions_are_those_of_the_image(brought):
    model, _, lvlm, sample = brought
    if isinstance(model, own_models.Owl):
        first, count = 1, own_models.QUERIES
    else:
        first, count = 1, 60
    assert sample.visual.tolist() == list(range(first, first + count))
    assert np.isnan(sample.geometry.rects).all()  # resampled tokens have no place
    said = "".join(sample.tokens[at] for at in sample.prompt_positions)
    assert said.split() == QUESTION.split()


def test_an_id_names_the_visual_positions():
    model, tokenizer, encode = own_models.owl()
    found = svl.wrap(model, encode=encode, tokenizer=tokenizer).encode(picture(), QUESTION)
    named = svl.wrap(model, encode=encode, tokenizer=tokenizer, visual=own_models.IMAGE)
    assert named.encode(picture(), QUESTION).visual.tolist() == found.visual.tolist()


def test_the_cache_is_used_where_there_is_one(brought):
    model, _, lvlm, _ = brought
    is_owl = isinstance(model, own_models.Owl)
    assert lvlm.model.parts.cache == ("past_key_values" if is_owl else None)


def test_a_cache_that_does_not_hold_is_not_used():
    """Its tokens forget where they stand: every answer then reads the whole sequence."""
    model, tokenizer, encode = own_models.owl()
    prepared = model.prepared
    model.prepared = lambda ids, images, begun: prepared(ids, images, 0)
    lvlm = svl.wrap(model, encode=encode, tokenizer=tokenizer)
    assert lvlm.model.parts.cache is None
    sample = lvlm.encode(picture(), QUESTION)
    expected = greedy(model, dict(sample.inputs), range(6), 4)
    assert list(svl.answer(lvlm, sample, max_new_tokens=4).token_ids) == expected


# What it gives


@torch.inference_mode()
def test_features_are_what_plain_hooks_see(brought):
    model, encode, lvlm, sample = brought
    layers = model.layers if isinstance(model, own_models.Owl) else model.transformer.h
    seen = []

    def keep(module, args, kwargs, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    out = model(**encode([picture()], QUESTION))
    for handle in handles:
        handle.remove()
    logits = getattr(out, "logits", out)
    [read] = svl.trace(lvlm, sample).samples
    entered, _ = entering(model, sample.inputs)
    assert torch.equal(read.features[0], entered[0])
    for number, states in enumerate(seen):
        assert torch.equal(read.features[number + 1], states[0])
    assert np.array_equal(read.logits_last, logits[0, -1].numpy())


@torch.inference_mode()
def test_attention_sums_are_those_of_the_maps(brought):
    """The maps written anew with numpy, from each layer's own weights."""
    model, _, lvlm, sample = brought
    [read] = svl.trace(lvlm, sample).samples
    sums = read.attention
    for number in range(6):
        attention = map_by_hand(model, sample, read.features[number], number)
        text, visual = sample.textual, sample.visual
        pairs = attention[np.ix_(text, visual)]
        assert np.allclose(sums.text_to_visual[number], pairs.sum(1), atol=1e-5)
        assert np.allclose(sums.visual_from_text[number], pairs.sum(0), atol=1e-5)
        pairs = attention[np.ix_(text, text)]
        assert np.allclose(sums.text_from_text[number], pairs.sum(0), atol=1e-5)
        pairs = attention[np.ix_(visual, visual)]
        assert np.allclose(sums.visual_from_visual[number], pairs.sum(0), atol=1e-5)
    causal = np.tri(sample.length)
    counts = causal[np.ix_(sample.textual, sample.visual)]
    assert np.array_equal(sums.text_to_visual_seen[2], counts.sum(1))
    even = causal / causal.sum(1, keepdims=True)
    shares = even[np.ix_(sample.textual, sample.visual)].sum(0)
    assert np.allclose(sums.visual_from_text_even[2], shares, atol=1e-5)


def map_by_hand(model, sample, hidden, number):
    """(S, S) attention of one layer, mean of the heads."""
    is_visual = np.isin(np.arange(sample.length), sample.visual)

    def normed(norm):
        states = hidden.numpy()
        centred = states - states.mean(1, keepdims=True)
        scaled = centred / np.sqrt(states.var(1, keepdims=True) + norm.eps)
        return scaled * norm.weight.numpy() + norm.bias.numpy()

    if isinstance(model, own_models.Owl):
        layer = model.layers[number]
        textual, visual = layer.input_layernorm.multiway
        states = np.where(is_visual[:, None], normed(visual), normed(textual))
        query = states @ layer.q_proj.weight.numpy().T
        keys = [states @ part.weight.numpy().T for part in layer.k_proj.multiway]
        key = np.where(is_visual[:, None], keys[1], keys[0])
    else:
        layer = model.transformer.h[number]
        both = normed(layer.ln_1) @ layer.c_attn.weight.numpy().T + layer.c_attn.bias.numpy()
        query, key = both[:, :32], both[:, 32:64]
    total = np.zeros((sample.length, sample.length))
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        scores = query[:, part] @ key[:, part].T / 8**0.5
        raised = np.exp(scores - scores.max()) * np.tri(sample.length)
        total += raised / raised.sum(1, keepdims=True) / 4
    return total


@torch.inference_mode()
@pytest.mark.parametrize("drop", [(1,), (0, 3), (2, 3, 5)])
def test_a_pruned_view_equals_the_other_layers_run_by_hand(brought, drop):
    model, encode, lvlm, sample = brought
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = svl.manual_plan(drop, 6)
    pruned = svl.prune(lvlm, plan)
    keep = [layer for layer in range(6) if layer not in drop]
    inputs = encode([picture()], QUESTION)
    expected = logits_by_hand(model, inputs, keep)
    assert torch.allclose(pruned.model(**sample.inputs).logits, expected, atol=1e-5)
    again = svl.prune(pruned, svl.manual_plan((1,), len(keep)))
    twice = logits_by_hand(model, inputs, [keep[0], *keep[2:]])
    assert torch.allclose(again.model(**sample.inputs).logits, twice, atol=1e-5)
    assert pruned.layer_ids == tuple(keep) and lvlm.num_layers == 6
    full = {id(tensor) for tensor in model.parameters()}
    assert {id(tensor) for tensor in pruned.model.parameters()} <= full
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.inference_mode()
def greedy(model, inputs, keep, count):
    """An answer by whole passes, layer by layer."""
    ids = []
    for _ in range(count):
        logits = logits_by_hand(model, inputs, keep)
        ids.append(int(logits[0, -1].argmax()))
        longer = torch.cat([inputs["input_ids"], torch.tensor([[ids[-1]]])], dim=1)
        inputs = inputs | {"input_ids": longer}
    return ids


def test_the_whole_line(brought):
    """Trace, importance, redundancy, plan, prune, answer, compare."""
    model, _, lvlm, sample = brought
    trace = svl.trace(lvlm, [sample])
    importance = svl.importance(trace)
    for criterion in ("svl", "shortgpt", "angular", "sleb", "shortv"):
        scores = svl.redundancy(trace, importance, criterion=criterion, lvlm=lvlm, samples=[sample])
        assert np.isfinite([score for score in scores.scores if score is not None]).any()
    plan = svl.plan(svl.redundancy(trace, importance), drop=2)
    pruned = svl.prune(lvlm, plan)
    keep = list(plan.keep)
    answer = svl.answer(pruned, sample, max_new_tokens=4)
    assert list(answer.token_ids) == greedy(model, dict(sample.inputs), keep, 4)
    compared = svl.compare(lvlm, pruned, sample, max_new_tokens=4)
    assert list(compared.full.token_ids) == greedy(model, dict(sample.inputs), range(6), 4)
    assert compared.kl == pytest.approx(kl_by_hand(model, sample, keep, compared), rel=1e-3)
    assert compared.parameters_full > compared.parameters_pruned


@torch.inference_mode()
def kl_by_hand(model, sample, keep, compared):
    inputs = dict(sample.inputs)
    ids = torch.tensor([compared.full.token_ids[:-1]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    count = len(compared.full.token_ids)
    full, pruned = (
        logits_by_hand(model, inputs, layers)[0, -count:].double().log_softmax(-1).numpy()
        for layers in (range(6), keep)
    )
    return (np.exp(full) * (full - pruned)).sum(1).mean()


def test_questions_of_other_lengths_are_never_padded(brought):
    _, _, lvlm, sample = brought
    longer = lvlm.encode(picture(), f"{QUESTION} {QUESTION}")
    other = lvlm.encode(picture(seed=2), QUESTION)
    assert shape_key(sample) == shape_key(other) != shape_key(longer)
    assert sorted(map(len, batches([sample, longer, other], 8))) == [1, 2]


@torch.inference_mode()
def test_rows_of_a_batch_are_read_alone(brought):
    _, _, lvlm, sample = brought
    other = lvlm.encode(picture(seed=2), QUESTION)
    both = {name: torch.cat([value, other.inputs[name]]) for name, value in sample.inputs.items()}
    logits = lvlm.model(**both).logits
    for row, one in zip(logits, (sample, other), strict=True):
        assert torch.equal(row, lvlm.model(**one.inputs).logits[0])


def test_layers_that_must_stay_are_named():
    model, tokenizer, encode = own_models.captain()
    lvlm = svl.wrap(model, encode=encode, tokenizer=tokenizer, protect=(2,))
    assert lvlm.protected == (2,)
    with pytest.raises(InputError, match="expected them to stay"):
        svl.pruned_view(lvlm, [0, 1, 3, 4, 5])
    assert svl.pruned_view(lvlm, [0, 2, 4, 5]).protected == (1,)


# What is said


def wrapped(kind=own_models.owl, change=None, **options):
    model, tokenizer, encode = kind()
    if change is not None:
        change(model)
    return svl.wrap(model, encode=encode, tokenizer=tokenizer, **options)


def train(model):
    model.train()


class Unlisted(own_models.Captain):
    """Its layers are in no list."""

    def __init__(self, vocabulary):
        super().__init__(vocabulary)
        for number, layer in enumerate(self.transformer.h):
            self.transformer.add_module(f"layer_{number}", layer)
        del self.transformer.h

    def forward(self, input_ids):
        hidden = self.embedded(input_ids)
        for number in range(6):
            hidden = getattr(self.transformer, f"layer_{number}")(hidden)
        return self.lm_head(self.transformer.ln_f(hidden))


class Silent(own_models.Captain):
    """Its output is no logits."""

    def forward(self, input_ids):
        return {"answer": super().forward(input_ids)}


class Headless(own_models.Captain):
    """Its head is no module."""

    def __init__(self, vocabulary):
        super().__init__(vocabulary)
        self.weight = self.lm_head.weight
        self.__dict__["lm_head"] = self._head
        del self._modules["lm_head"]

    def _head(self, states):
        return states @ self.weight.T


def captain_of(kind):
    return lambda: own_models.captain(kind)


@pytest.mark.parametrize(
    ("kind", "change", "options", "sentence"),
    [
        (own_models.owl, train, {}, "in training mode; expected evaluation mode; call its eval"),
        (captain_of(Unlisted), None, {}, "no list of decoder layers .* name it with layers="),
        (own_models.owl, None, {"layers": "blocks"}, "no module 'blocks' .* correct layers="),
        (own_models.owl, None, {"layers": "norm"}, "Found LayerNorm of 0 layers at 'norm'"),
        (
            own_models.owl,
            None,
            {"layers": "visual_abstractor.blocks"},
            "'visual_abstractor.blocks' of Owl does not hand hidden states",
        ),
        (captain_of(Silent), None, {}, "no logits in its output, a dict .* with head="),
        (captain_of(Headless), None, {}, "no module .* whose output are its logits; .* head="),
        (own_models.owl, None, {"head": "tail"}, "no module 'tail' .* correct head="),
        (own_models.owl, None, {"visual": 7}, "Found 0 marks 7 .* correct visual="),
        (own_models.owl, None, {"places": "nowhere"}, "the places 'nowhere'; expected 'auto'"),
    ],
)
def test_what_is_not_found_is_said(kind, change, options, sentence):
    with pytest.raises(InputError, match=sentence):
        wrapped(kind, change, **options)


def test_a_named_head_gives_the_logits():
    lvlm = wrapped(captain_of(Silent), head="lm_head")
    plain = wrapped(own_models.captain)
    question = plain.encode(None, QUESTION)
    given = lvlm.model(**question.inputs).logits
    assert torch.equal(given, plain.model(**question.inputs).logits)


def test_what_encode_must_return():
    model, tokenizer, encode = own_models.owl()
    with pytest.raises(InputError, match="Found no processor for Owl; expected one, or encode="):
        svl.wrap(model)
    with pytest.raises(InputError, match="among them input_ids .* mend what `encode` returns"):
        lvlm = svl.wrap(model, encode=encode, tokenizer=tokenizer)
        object.__setattr__(lvlm.processor, "encode", lambda images, text: {"ids": torch.ones(1)})
        lvlm.encode(None, QUESTION)

    def failing(images, question):
        raise ValueError("no picture today.")

    with pytest.raises(InputError, match=r'"picture and question" \(no picture today\); expected'):
        svl.wrap(model, encode=failing, tokenizer=tokenizer)


def test_what_is_not_offered(brought, tmp_path):
    _, _, lvlm, sample = brought
    with pytest.raises(InputError, match="keep the plan, and prune the model anew"):
        lvlm.save(tmp_path / "out")
    chat = [
        {"role": "user", "content": "a cat"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "a dog"},
    ]
    with pytest.raises(InputError, match="wrapped model; expected one question"):
        lvlm.encode(None, chat)
    with pytest.raises(InputError, match="plainly counted visual tokens"):
        svl.keep_visual(lvlm, sample, 0.5)


def test_a_model_of_transformers_is_the_same_either_way(tiny, image):
    """Wrapped, a LLaVA gives the features, statistics and answers that it gives as it is loaded."""
    visual = tiny.model.config.image_token_id
    plain = tiny.encode(image, QUESTION)

    def encode(images, question):
        return dict(tiny.encode(images or None, question).inputs)

    lvlm = svl.wrap(tiny.model, encode=encode, tokenizer=tiny.tokenizer, visual=visual)
    sample = lvlm.encode(image, QUESTION)
    assert sample.visual.tolist() == plain.visual.tolist()
    assert sample.tokens[-1] == plain.tokens[-1]
    assert lvlm.family.geometry == "square"  # found by trying
    assert np.allclose(sample.geometry.rects, plain.geometry.rects)
    [one], [other] = (svl.trace(*pair).samples for pair in ((lvlm, sample), (tiny, plain)))
    assert torch.equal(one.features, other.features)
    for name in ("visual_from_text", "text_to_text", "visual_from_visual_seen"):
        given, expected = getattr(one.attention, name), getattr(other.attention, name)
        assert np.allclose(given, expected, atol=1e-5)
    answers = [svl.answer(*pair, max_new_tokens=5) for pair in ((lvlm, sample), (tiny, plain))]
    assert answers[0].token_ids == answers[1].token_ids


def test_hidden_states_are_found_under_any_name():
    states = torch.zeros(1, 2, 3)
    assert hooks.hidden_input((states,), {}) is states
    assert hooks.hidden_input((), {"hidden_states": states}) is states
    assert hooks.hidden_input((), {"mask": torch.zeros(2), "x": states}) is states
