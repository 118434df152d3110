"""Least squares on the attention's output of the layer before a dropped run, where its MLP cannot
be fitted (a mixture of experts), or beside it.

What the layer's MLP makes of the changed attention is left out, as in the refit. Only maps of the
retained layers are needed, so the calibration samples are read once more, and no output is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from svl_core.analysis.trace import SampleTrace
from svl_core.errors import InputError
from svl_core.lvlm import families, vision
from svl_core.lvlm.hooks import ThreadHooks, ended_at, hidden_input, hidden_of, with_hidden
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.roles import Ending, attention_end, feed_forward_endings
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.stopping import reaching
from svl_core.progress import Run
from svl_core.pruning.edits import apply_to, entering_and_step, fitted_tokens, lstsq, lstsq_map
from svl_core.pruning.fit import Fit
from svl_core.pruning.view import gaps_of

TOLERANCE = 0.1
"""Of what a changed output adds, the share that may be lost to rounding."""
LEAST_FACTOR = 1e-3
"""By which an output must reach the stream at least."""


@torch.inference_mode()
def attention_factor(lvlm: LVLM, sample: Sample) -> float | None:
    """By which number the attention's output is multiplied on its way to the residual stream.

    Tried on the first layer whose attention one linear map ends, in two passes that end behind it,
    with its feed-forward silent. None where it is no number (a norm), or no layer can be tried.

    lvlm: the model.
    sample: any question to it.
    """
    number = _first_layer(lvlm)
    if number is None:
        return None
    before = _behind(lvlm, sample, number, None)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(
        before.shape,
        generator=generator,
    )
    shift = noise.to(before) * before.std()
    change = (
        _behind(
            lvlm,
            sample,
            number,
            shift,
        )
        - before
    )
    power = (shift * shift).sum()
    factor = (change * shift).sum() / power
    error = (change - factor * shift).abs().max()
    close = error < TOLERANCE * (factor * shift).abs().max()
    return float(factor) if close and factor > LEAST_FACTOR else None


def _first_layer(lvlm: LVLM) -> int | None:
    """The first layer, but for the last, of which both parts are known."""
    for number in range(lvlm.num_layers - 1):
        layer = lvlm.layers[number]
        try:
            attention_end(layer)
            _feed_forward(layer)
        except InputError:
            continue
        return number
    return None


def _feed_forward(layer: torch.nn.Module) -> torch.nn.Module:
    """The part of a layer that holds its feed-forward. Raises InputError where it is not known."""
    end = feed_forward_endings(layer)[0].module
    parts = layer.children()
    return next(part for part in parts if any(module is end for module in part.modules()))


def _behind(
    lvlm: LVLM,
    sample: Sample,
    number: int,
    shift: torch.Tensor | None,
) -> torch.Tensor:
    """What enters the layer behind another whose feed-forward gives nothing, (B, S, d) float32.

    number: of that layer.
    shift: (B, S, d) is added to what its attention gives; None: nothing.
    """
    layer = lvlm.layers[number]

    def shifted(
        args: tuple,
        kwargs: Mapping[str, Any],
        output: torch.Tensor,
    ) -> torch.Tensor:
        return output if shift is None else output + shift.view_as(output).to(output)

    def silent(
        args: tuple,
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> Any:
        return with_hidden(output, torch.zeros_like(hidden_of(output)))

    with ThreadHooks() as hooks:
        hooks.on_output(attention_end(layer), shifted)
        hooks.on_output(_feed_forward(layer), silent)
        args, kwargs = reaching(
            lvlm,
            lvlm.layers[number + 1],
            sample,
        )
    return families.residual(
        hidden_input(args, kwargs),
        lvlm.text_config,
    ).float()


@dataclass(eq=False)
class _Sums:
    """What the fit of one layer needs of all tokens: (d, d) M^T M and M^T Y, float64."""

    gram: torch.Tensor
    cross: torch.Tensor


def fit_attention(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    """W <- T^T W for the attention's output projection of the layer before each dropped run, T as
    in `edits.lstsq` with M the attention's output; returns the ids of the layers edited.

    Where the MLP is fitted too, the attention takes what its map leaves of the gap.

    Raises InputError where a layer's attention ends in no linear map.
    """
    gaps = [
        gap
        for gap in gaps_of(
            full,
            pruned,
        )
        if gap[0] > 0
    ]
    ends = [attention_end(full.layers[first - 1]) for first, _ in gaps]
    sums = _summed(full, fit, gaps, ends, run)
    strength = fit.recipe.strength
    edited = []
    for (first, _), parts in zip(gaps, sums, strict=True):
        fitted = lstsq_map(
            parts.gram,
            parts.cross,
            fit.ridge,
        )
        unedited = torch.eye(
            len(fitted),
            dtype=torch.float64,
        )
        edit = (1 - strength) * unedited + strength * fitted
        number = full.layer_ids[first - 1]
        place = pruned.layer_ids.index(number)
        end = attention_end(pruned.layers[place])
        apply_to(Ending(end), edit)
        edited.append(number)
    return edited


def _summed(
    full: LVLM,
    fit: Fit,
    gaps: Sequence[tuple[int, int]],
    ends: Sequence[torch.nn.Module],
    run: Run,
) -> list[_Sums]:
    """The sums of every gap, in one pass a sample up to the last of them."""
    size = fit.trace.hidden_size
    sums = [
        _Sums(
            *torch.zeros(
                2,
                size,
                size,
                dtype=torch.float64,
            )
        )
        for _ in gaps
    ]
    left = [
        _left_by_mlp(
            fit,
            first,
            last,
        )
        for first, last in gaps
    ]
    factor = attention_factor(full, _read(fit.trace.samples[0]))
    for traced, at, weights in fitted_tokens(fit):
        run.check("Stopped.")
        given = _outputs(full, _read(traced), gaps, ends)
        for (first, last), total, rest, output in zip(
            gaps,
            sums,
            left,
            given,
            strict=True,
        ):
            _, step = entering_and_step(traced, at, first, last)
            if rest is not None and traced.mlp is not None:
                mapped = traced.mlp[first - 1, at].double() @ rest
                step = step - mapped
            added = (factor or 1.0) * output[at].double()
            wanted = step + added
            total.gram += added.T @ (weights * added)
            total.cross += added.T @ (weights * wanted)
    return sums


def _read(traced: SampleTrace) -> Sample:
    """The sample that was traced. Raises InputError for a trace that does not hold it."""
    if traced.sample is None:
        raise InputError(
            "Found a calibration trace without its samples; expected them for a fit of the"
            " attention; trace them again."
        )
    return traced.sample


def _left_by_mlp(
    fit: Fit,
    first: int,
    last: int,
) -> torch.Tensor | None:
    """(d, d) what the MLP's fit adds to its output, M (T - I); None where it is not fitted."""
    edit = lstsq(
        fit,
        first,
        last,
    ).maps.get("mlp")
    if edit is None:
        return None
    return edit.T - torch.eye(
        len(edit),
        dtype=torch.float64,
    )


@torch.inference_mode()
def _outputs(
    full: LVLM,
    sample: Sample,
    gaps: Sequence[tuple[int, int]],
    ends: Sequence[torch.nn.Module],
) -> list[torch.Tensor]:
    """(S, d) what the attention before each gap gives for a sample, on the CPU."""
    found: dict[int, torch.Tensor] = {}

    def keep(
        number: int,
        args: tuple,
        kwargs: Mapping[str, Any],
        output: torch.Tensor,
    ) -> None:
        found[number] = output.reshape(
            -1,
            output.shape[-1],
        ).cpu()

    deepest = max(first for first, _ in gaps)
    with ThreadHooks() as hooks, ended_at(full.layers[deepest]):
        for number, end in enumerate(ends):
            hooks.on_output(end, partial(keep, number))
        vision.forward(
            full,
            sample.inputs,
            sample.features,
            use_cache=False,
        )
    return [found[number] for number in range(len(ends))]
