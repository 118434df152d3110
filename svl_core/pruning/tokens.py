"""Visual-token pruning: visual tokens leave the sequence before the decoder or before one of its
layers, or some layers do not update them; those that stay keep their positions.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from svl_core.analysis.importance import TopP, importance
from svl_core.analysis.trace import Trace, trace
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import PatchGeometry, Sample
from svl_core.lvlm.stopping import reaching
from svl_core.lvlm.thin_pass import check
from svl_core.lvlm.thinning import Thinning
from svl_core.lvlm.vision import see
from svl_core.lvlm.work import vision_patches
from svl_core.pruning.selectors import Question, Selector, selector_of
from svl_core.recipe import Recipe

COUNTED_INPUTS = {
    "input_ids",
    "attention_mask",
    "pixel_values",
}
"""Inputs of models whose positions are a plain count."""


def visual_scores(
    lvlm: LVLM,
    sample: Sample,
    traced: Trace | None = None,
) -> np.ndarray:
    """(V,) TIS of the sample's visual tokens, mean over layers, from one pass of `lvlm` (the full
    model, as a rule).

    traced: that pass, where it was made already.
    """
    visual, _ = importance(traced or trace(lvlm, sample)).averaged(0)
    return visual


def keep_visual(
    lvlm: LVLM,
    sample: Sample,
    share: float,
    scores: np.ndarray | None = None,
    traced: Trace | None = None,
) -> Sample:
    """`sample` with only its most important visual tokens, ceil(share x V) of V.

    share: above 0 and up to 1; 1 gives the sample itself, of any model.
    scores: (V,) importance of the visual tokens (default: `visual_scores`).
    traced: the model's trace of the sample, where it is there already.

    The image is embedded here. The result holds what enters the decoder: embeddings (1, S', d) with
    the positions that the tokens had, so that every pruned view of `lvlm` can read it too.

    Raises InputError for a share out of range, a sample without image, and a model whose inputs are
    not plainly counted (other than the LLaVA family).
    """
    _check_share(share)
    if share == 1:
        return sample
    _check_counted(lvlm, sample)
    spent = _Ranked(None, ranked=True)
    if scores is None:
        sample = see(lvlm, sample)
        scores, spent = _scored(lvlm, sample, selector_of("tis"), 0, seed=0, traced=traced)
    return _at_input(lvlm, sample, _chosen(sample, share, scores), spent)


def thin(
    lvlm: LVLM,
    sample: Sample,
    recipe: Recipe,
    traced: Trace | None = None,
) -> Sample:
    """`sample` as a pruned model reads it whose recipe says so: `visual_tokens` by name, which
    share of them stays, from which layer on, or in which layers they are skipped.

    lvlm: the full model, by which tokens are ranked where that takes a pass.
    traced: its trace of the sample, where it is there already.

    Layers are those of the original model: in a pruned view tokens leave before the first layer
    present of that number or a later one. Where nothing is thinned, the sample itself comes back.

    Raises InputError for an unknown selector, one that needs a layer before, a layer that is none,
    a sample without visual tokens, and a model that cannot do so.
    """
    row = selector_of(recipe.visual_tokens)
    _check_share(recipe.visual_share)
    if not row.acts(recipe):
        return sample
    if not len(sample.visual):
        raise InputError(
            f"Found no visual tokens for {lvlm.name}; expected an image in the sequence; keep all"
            " visual tokens."
        )
    if row.parts:
        return _skipping(lvlm, sample, row, recipe)
    count = int(TopP(recipe.visual_share).select(sample.visual).sum())
    if row.choose is not None:
        return _leaving_by_choice(lvlm, sample, row, recipe.visual_from, count)
    if not recipe.visual_from:
        _check_counted(lvlm, sample)
    sample = see(lvlm, sample)
    scores, spent = _scored(lvlm, sample, row, count, seed=recipe.seed, traced=traced)
    chosen = _chosen(sample, recipe.visual_share, scores)
    if not recipe.visual_from:
        return _at_input(lvlm, sample, chosen, spent)
    thinning = Thinning(
        visual=sample.visual,
        before_ms=spent.ms,
        ranked=spent.ranked,
        leave=recipe.visual_from,
        stay=chosen,
        count=count,
    )
    return _with(lvlm, sample, thinning, f"{row.name}-{recipe.visual_from}-{_numbers(chosen)}")


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise InputError(
            f"Found a share of {share} of the visual tokens to keep; expected one above 0 and up to"
            " 1; change it."
        )


def _check_counted(lvlm: LVLM, sample: Sample) -> None:
    """Raises InputError where tokens cannot leave at the input."""
    counted = not set(sample.inputs) - COUNTED_INPUTS
    counted = counted and not lvlm.brought
    if not counted or hasattr(lvlm.text_config, "layer_types") or not len(sample.visual):
        raise InputError(
            f"Found no plainly counted visual tokens for {lvlm.name}; expected an image and a model"
            " of the LLaVA family; keep all visual tokens."
        )


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """What was spent before the pruned model's pass.

    ms: milliseconds, the image's included; None: unknown.
    ranked: whether the full model read the prompt.
    """

    ms: float | None
    ranked: bool


def _seen_ms(sample: Sample) -> float:
    """Milliseconds that the sample's images took."""
    return 0.0 if sample.features is None else sample.features.ms


def _scored(
    lvlm: LVLM,
    sample: Sample,
    row: Selector,
    count: int,
    *,
    seed: int,
    traced: Trace | None,
) -> tuple[np.ndarray, _Ranked]:
    """(V,) scores of the visual tokens, and what they cost.

    A trace that is there already costs what its pass took, where that was kept.
    """
    if row.ranks and traced is not None:
        prompt = traced.samples[0].prompt
        spent_ms = None if prompt is None else prompt.ms
        return visual_scores(lvlm, sample, traced), _Ranked(spent_ms, ranked=True)
    assert row.score is not None, "tokens leave by a score or by a choice"
    began = time.perf_counter()
    scores = row.score(Question(lvlm, sample, count, seed))
    spent_ms = 1000 * (time.perf_counter() - began)
    return scores, _Ranked(spent_ms + _seen_ms(sample), row.ranks)


def _chosen(sample: Sample, share: float, scores: np.ndarray) -> np.ndarray:
    """(V,) whether each visual token stays. Raises InputError for scores of other tokens."""
    scores = np.asarray(scores)
    if scores.shape != sample.visual.shape:
        raise InputError(
            f"Found {scores.size} scores for {len(sample.visual)} visual tokens; expected one each;"
            " take them from this sample's importance."
        )
    return TopP(share).select(scores)


def _numbers(chosen: np.ndarray) -> str:
    return ",".join(map(str, np.flatnonzero(chosen)))


def _with(
    lvlm: LVLM,
    sample: Sample,
    thinning: Thinning,
    mark: str,
) -> Sample:
    """The sample with what becomes of its visual tokens. mark: tells it from others."""
    check(lvlm, thinning)
    return dataclasses.replace(sample, thinning=thinning, key=f"{sample.key}-{mark}")


def _leaving_by_choice(
    lvlm: LVLM,
    sample: Sample,
    row: Selector,
    leave: int,
    count: int,
) -> Sample:
    if not leave:
        raise InputError(
            f"Found the token selector '{row.name}' at the input; expected a layer from 1 on, for"
            " it ranks by the layer before; set visual_from."
        )
    sample = see(lvlm, sample)
    thinning = Thinning(
        visual=sample.visual,
        before_ms=_seen_ms(sample),
        leave=leave,
        choose=row.choose,
        count=count,
    )
    return _with(lvlm, sample, thinning, f"{row.name}-{leave}-{count}")


def _skipping(
    lvlm: LVLM,
    sample: Sample,
    row: Selector,
    recipe: Recipe,
) -> Sample:
    layers = recipe.visual_layers
    if layers is None:
        layers = tuple(layer for layer in lvlm.layer_ids if layer >= recipe.visual_from)
    if not layers:
        raise InputError(
            f"Found no layer from {recipe.visual_from} on in {lvlm.name}; expected at least one"
            " that skips visual tokens; lower visual_from."
        )
    sample = see(lvlm, sample)
    thinning = Thinning(
        visual=sample.visual,
        before_ms=_seen_ms(sample),
        skip=layers,
        parts=row.parts,
    )
    return _with(lvlm, sample, thinning, f"{row.name}-{','.join(map(str, layers))}")


def _at_input(
    lvlm: LVLM,
    sample: Sample,
    chosen: np.ndarray,
    spent: _Ranked,
) -> Sample:
    """The sample without the visual tokens that are not chosen: what enters the decoder.

    chosen: (V,) whether each visual token stays.
    """
    # (S',) the positions that stay
    going = sample.visual[~chosen]
    staying = np.setdiff1d(np.arange(sample.length), going)
    # (S,) the new position of each old one, -1 for those that go
    place = np.full(sample.length, -1)
    place[staying] = np.arange(len(staying))
    positions = torch.as_tensor(staying, device=lvlm.device)
    _, decoder_inputs = reaching(lvlm, lvlm.decoder, sample)
    position_ids = positions[None]
    inputs = {
        "inputs_embeds": decoder_inputs["inputs_embeds"][:, positions],
        "attention_mask": torch.ones_like(position_ids),
        "position_ids": position_ids,
    }
    geometry = PatchGeometry(
        sample.geometry.rects[chosen],
        sample.geometry.image_index[chosen],
    )
    visual = place[sample.visual[chosen]]
    thinning = Thinning(
        visual=visual,
        before_ms=spent.ms,
        ranked=spent.ranked,
        patches=vision_patches(lvlm, sample),
        leave=0,
        stay=chosen,
        count=len(visual),
    )
    return dataclasses.replace(
        sample,
        inputs=inputs,
        visual=visual,
        textual=place[sample.textual],
        prompt_positions=place[sample.prompt_positions],
        tokens=tuple(sample.tokens[position] for position in staying),
        geometry=geometry,
        key=f"{sample.key}-keep-{_numbers(chosen)}",
        features=None,
        thinning=thinning,
    )
