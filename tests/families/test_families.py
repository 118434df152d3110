"""Every family: geometry, pruning, generation, saving, on a tiny model with random weights and a
real processor.
"""

import copy

import numpy as np
import pytest
import torch
from perturbation import hits
from tiny import picture
from transformers import AutoModelForImageTextToText

import svl_core as svl
from svl_core.errors import InputError
from svl_core.pruning.view import pruned_view

PROMPT = "what is in the top left ?"
SHAPES = [
    [(240, 161)],
    [(600, 60)],
    [(50, 420)],
    [(48, 32)],
    [(200, 200), (110, 300)],
]  # width, height of the images of one prompt


@pytest.fixture
def sample(family):
    return family.encode(picture(120, 80), PROMPT)


def logits(lvlm, sample, **options):
    with torch.inference_mode():
        return lvlm.model(**sample.inputs, **options).logits


def keeps(lvlm):
    """Some choices of layers that leave the protected ones in."""
    droppable = [i for i in range(lvlm.num_layers) if i not in lvlm.protected]
    return [
        tuple(sorted(set(range(lvlm.num_layers)) - set(gone)))
        for gone in ((), droppable[1:2], droppable[:2], droppable[::2], droppable[1:])
    ]


def test_it_has_a_row_of_its_own(family):
    assert family.family.name != "generic"


def test_positions_and_places(family, sample):
    assert sample.length == sample.inputs["input_ids"].shape[1]
    assert "".join(sample.tokens[i] for i in sample.prompt_positions).strip() == PROMPT
    if not family.family.in_sequence:
        assert len(sample.visual) == 0
        return
    rects = sample.geometry.rects
    assert len(rects) == len(sample.visual) > 0
    covered = np.zeros((40, 40), bool)
    for x0, y0, x1, y1 in rects[~np.isnan(rects).any(axis=1)] * 40:
        covered[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))] = True
    assert (
        covered.all() or family.family.name == "LLaVA" and covered[:, 10:30].all()
    )  # the centre crop hides two sides


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_changing_a_rectangle_changes_its_own_position_most(family, shapes):
    if not family.family.in_sequence:
        pytest.skip("images enter through cross-attention")
    assert all(
        hits(family, [picture(*shape, seed=seed) for seed, shape in enumerate(shapes)], positions=5)
    )


def test_two_images_and_none(family):
    images = [picture(120, 80), picture(70, 140, seed=1)]
    two = family.encode(images, PROMPT)
    assert torch.isfinite(logits(family, two)).all()
    if family.family.in_sequence:
        assert set(two.geometry.image_index.tolist()) == {0, 1} and len(two.geometry.rects) == len(
            two.visual
        )
    if family.family.image_required:
        with pytest.raises(InputError, match="image"):
            family.encode(None, PROMPT)
    else:
        alone = family.encode(None, PROMPT)
        assert len(alone.visual) == 0
        trace = svl.trace(family, [alone])
        features, passed_over = (
            trace.samples[0].features,
            getattr(family.model.config.get_text_config(), "cross_attention_layers", None) or (),
        )
        assert torch.isfinite(features).all() and [
            i for i in range(family.num_layers) if torch.equal(features[i], features[i + 1])
        ] == list(passed_over)
        assert np.isclose(
            trace.samples[0].logits_last, logits(family, alone)[0, -1], atol=1e-4
        ).all()
        pruned = svl.prune(family, svl.plan(svl.redundancy(trace, svl.importance(trace)), 1))
        assert svl.compare(family, pruned, alone, max_new_tokens=2).kl >= 0


def test_special_tokens_in_the_prompt_are_plain_text(family, sample):
    marks = [
        token
        for token in (
            getattr(family.processor, name, None)
            for name in (
                "image_token",
                "boi_token",
                "video_token",
                "fake_image_token",
                "img_patch_token",
                "start_image_token",
            )
        )
        if token
    ]
    words = "tell <s> " + " ".join(marks) + " </s> me"
    nasty = family.encode(picture(120, 80), words)
    assert len(nasty.visual) == len(sample.visual)
    said = nasty.inputs["input_ids"][0][torch.tensor(nasty.prompt_positions)].tolist()
    assert family.tokenizer.decode(said).strip() == words and not set(said) & set(
        family.tokenizer.all_special_ids
    )
    assert torch.isfinite(logits(family, nasty)).all()


def test_pruning_equals_skipping(family, sample):
    for keep in keeps(family):
        model = copy.deepcopy(family.model)
        for index, layer in enumerate(model.get_decoder().layers):
            if index not in keep:
                layer.register_forward_hook(lambda module, args, output: args[0])
        with torch.inference_mode():
            skipped = model(**sample.inputs, use_cache=False).logits
        assert torch.equal(logits(pruned_view(family, keep), sample, use_cache=False), skipped), (
            keep
        )


def test_each_droppable_layer_matters(family, sample):
    whole = logits(family, sample)
    for index in range(family.num_layers):
        if index not in family.protected:
            keep = [i for i in range(family.num_layers) if i != index]
            assert (logits(pruned_view(family, keep), sample) - whole).abs().max() > 1e-3, index


def test_protected_layers_cannot_go(family):
    for index in family.protected:
        with pytest.raises(InputError, match="cannot work without"):
            pruned_view(family, [i for i in range(family.num_layers) if i != index])


def padded(inputs, count, pad):
    """The same question with `count` padding positions on its left."""
    widened = dict(inputs)
    for name, fill in (
        ("input_ids", pad),
        ("attention_mask", 0),
        ("token_type_ids", 0),
        ("mm_token_type_ids", 0),
        ("cross_attention_mask", 0),
    ):
        if name in widened:
            value = widened[name]
            widened[name] = torch.cat(
                [torch.full((1, count, *value.shape[2:]), fill, dtype=value.dtype), value], dim=1
            )
    return widened


def test_cached_equals_uncached_also_padded(family, sample):
    banned = sorted(
        {*family.tokenizer.all_special_ids, *(i for i in family.tokenizer.added_tokens_decoder)}
    )
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": family.tokenizer.pad_token_id,
        "suppress_tokens": banned,
    }
    for keep in (keeps(family)[0], keeps(family)[3]):
        view = pruned_view(family, keep)
        cached = view.model.generate(**sample.inputs, use_cache=True, **options)[0, sample.length :]
        assert len(cached) == 6
        assert torch.equal(
            view.model.generate(**sample.inputs, use_cache=False, **options)[0, sample.length :],
            cached,
        )
        wide = padded(sample.inputs, 5, family.tokenizer.pad_token_id)
        for use_cache in (True, False):
            assert torch.equal(
                view.model.generate(**wide, use_cache=use_cache, **options)[0, sample.length + 5 :],
                cached,
            ), use_cache


def test_a_saved_view_loads_plainly(family, sample, tmp_path):
    view = pruned_view(family, keeps(family)[3])
    view.save(tmp_path / "out")
    model, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and not report["mismatched_keys"]
    )
    with torch.inference_mode():
        assert torch.equal(model.eval()(**sample.inputs).logits, logits(view, sample))


def test_a_saved_view_loads_again(family, sample, tmp_path):
    view = pruned_view(family, keeps(family)[3])
    view.save(tmp_path / "out")
    again = svl.load(tmp_path / "out", dtype="float32")
    assert again.layer_ids == view.layer_ids and again.family is view.family
    encoded = again.encode(picture(120, 80), PROMPT)
    assert set(encoded.inputs) == set(sample.inputs)
    assert all(torch.equal(encoded.inputs[name], value) for name, value in sample.inputs.items())
    assert np.array_equal(encoded.geometry.rects, sample.geometry.rects, equal_nan=True)
    assert torch.equal(logits(again, encoded), logits(view, sample))


def test_the_full_model_is_as_before(family, sample):
    before, config = logits(family, sample), family.model.config.to_dict()
    tensors = {name: value.clone() for name, value in family.model.state_dict().items()}
    for keep in keeps(family):
        view = pruned_view(family, keep)
        logits(view, sample)
        view.model.generate(
            **sample.inputs,
            max_new_tokens=2,
            do_sample=False,
            suppress_tokens=sorted(family.tokenizer.added_tokens_decoder),
        )
    assert torch.equal(logits(family, sample), before) and family.model.config.to_dict() == config
    assert all(
        torch.equal(value, tensors[name]) for name, value in family.model.state_dict().items()
    )
