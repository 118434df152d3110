"""One traced pass in every family, against a separate model run with eager attention and plain
hooks.
"""

import copy

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.forcing import forced_logits
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.vision import forward
from svl_core.pruning.plan import manual_plan


@pytest.fixture
def sample(family):
    return family.encode(picture(120, 80), "what is in the top left ?")


def plain_pass(model, layers, sample, **options):
    """Every layer's input and output by hooks of the test's own, and the model's output."""
    seen = []
    handles = [layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))]
    handles += [
        layer.register_forward_hook(lambda module, args, output: seen.append(output))
        for layer in layers
    ]
    with torch.inference_mode():
        output = model(**sample.inputs, use_cache=False, **options)
    for handle in handles:
        handle.remove()
    streams = [
        hidden if hidden.dim() == 3 else hidden[model.config.get_text_config().altup_active_idx]
        for hidden in seen
    ]
    return torch.stack([hidden[0] for hidden in streams]), output


def test_layer_outputs_are_exact(family, sample):
    trace = svl.trace(family, [sample])
    features, output = plain_pass(
        family.model, family.layers, sample, logits_to_keep=torch.tensor([sample.length - 1])
    )
    assert torch.equal(trace.samples[0].features, features)
    assert np.array_equal(trace.samples[0].logits_last, output.logits[0, -1].numpy())
    assert family.model.config.get_text_config()._attn_implementation not in (
        "svl_statistics",
        "svl_statistics_plain",
    )


def test_attention_statistics_equal_eager(family, sample):
    statistics = svl.trace(family, [sample]).samples[0].attention
    model = copy.deepcopy(family.model)
    model.set_attn_implementation("eager")
    maps = {}
    for index, layer in enumerate(model.get_decoder().layers):
        attention = getattr(layer, "self_attn", None)
        if attention is not None:
            attention.register_forward_hook(
                lambda module, args, output, index=index: maps.__setitem__(index, output[1])
            )
    with torch.inference_mode():
        model(**sample.inputs, use_cache=False, output_attentions=True)
    visual, textual = sample.visual, sample.textual
    for index in range(family.num_layers):
        if index not in maps:
            assert np.isnan(statistics.text_from_text[index]).all()
            continue
        a = maps[index][0].float().mean(0).numpy()
        for name, expected in (
            ("visual_from_visual", a[np.ix_(visual, visual)].sum(0)),
            ("visual_from_text", a[np.ix_(textual, visual)].sum(0)),
            ("text_to_visual", a[np.ix_(textual, visual)].sum(1)),
            ("text_from_text", a[np.ix_(textual, textual)].sum(0)),
            ("text_to_text", a[np.ix_(textual, textual)].sum(1)),
        ):
            assert np.abs(getattr(statistics, name)[index] - expected).max(initial=0) < 1e-5 * max(
                1, np.abs(expected).max(initial=0)
            ), (index, name)


def test_the_line_runs_to_a_comparison(family, sample):
    trace = svl.trace(family, [sample])
    importance = svl.importance(trace)
    scores = svl.redundancy(trace, importance)
    assert np.isfinite(scores.scores).all() and not set(scores.ranking) & set(family.protected)
    pruned = svl.prune(family, svl.plan(scores, drop=1))
    report = svl.compare(family, pruned, sample, max_new_tokens=3)
    assert report.kl >= 0 and report.parameters_pruned < report.parameters_full
    assert (
        svl.trace(pruned, [pruned.encode(picture(120, 80), "a cat")]).num_layers
        == family.num_layers - 1
    )


def test_refit_reaches_both_projections_or_says_why(family, sample):
    """With a large ridge nothing changes but by rounding; without, the fitted layer's output comes
    nearer to what the dropped layer gave, or one sentence says what cannot be edited.
    """
    trace = svl.trace(family, [sample])
    droppable = [
        layer for layer in range(1, family.num_layers - 1) if layer not in family.protected
    ]
    plan = manual_plan(droppable[:1], family.num_layers)
    both = {"targets": ("mlp", "attention"), "answer_weight": 0.0}
    try:
        held, free = (
            svl.prune(family, plan, "refit", trace, ridge=ridge, **both) for ridge in (1e12, 1e-3)
        )
    except InputError as error:
        assert "expected" in str(error)
        return
    plain = svl.prune(family, plan, "none")

    def last_state(pruned):
        return svl.trace(pruned, [sample]).samples[0].features[-1].double()

    target = trace.samples[0].features[-1].double()
    assert torch.allclose(last_state(held), last_state(plain), atol=1e-4)
    assert (last_state(free) - target).norm() < (last_state(plain) - target).norm()


def test_an_answer_behind_the_prompt_reads_as_token_by_token(family, sample):
    answer = svl.answer(family, sample, max_new_tokens=5).token_ids
    try:
        inputs = lengthened(sample, answer)
    except InputError as error:
        assert "token_type_ids among this model's inputs" in str(error)
        return
    logits = forward(family, inputs, sample.features, use_cache=False).logits
    forced = forced_logits(family, [sample], [answer])[0]
    behind = logits[0, sample.length - 1 :]
    assert behind.shape == forced.shape and len(answer) > 1
    assert torch.allclose(behind, forced.to(behind), atol=1e-4)
