"""Compensations: training-free edits that bridge the gap which dropped layers leave, as a registry.

Merged ones edit weights, so the pruned model keeps its shape and its cost. The bridge, LinearPatch
and the light layer add a module behind a layer instead: its parameters are counted, and a plain
checkpoint cannot hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from svl_core.errors import InputError
from svl_core.pruning.fit import Edit, Fit

if TYPE_CHECKING:
    from svl_core.lvlm.model import LVLM
    from svl_core.progress import Run

SUBSPACE = ("rank", "energy", "strength", "tokens")
"""Settings of every compensation that works in a subspace of the gap."""


EditRun = Callable[[Fit, int, int], Edit]
"""Called with the fit and the first and last layer of a dropped run; see `Compensation`."""

EditModel = Callable[["LVLM", "LVLM", Fit, "Run"], list[int]]
"""Called with the full model, its pruned view, the fit and the run; see `Compensation`."""

EditWeights = Callable[["LVLM", "LVLM"], list[int]]
"""Called with the full model and its pruned view; see `Compensation`."""


@dataclass(frozen=True)
class Compensation:
    """One way to bridge the gap.

    formula, source: what it does to the weights, and where it comes from.
    exportable: whether a plain checkpoint holds the result.
    settings: the recipe's fields that it reads; others do not change it.
    needs_mlp: whether the calibration trace must hold the MLPs' outputs.
    ridge: what a recipe without a ridge means.
    edit_run: `edit_run(fit, first, last)` gives the edit of the layer before the dropped run
        first..last.
    edit_model: `edit_model(full, pruned, fit, run)` edits a pruned view as a whole and gives the
        ids of the layers edited.
    edit_weights: `edit_weights(full, pruned)` does the same from the weights alone.
    edit_attention: does what `edit_model` does, behind the runs' edits, where the recipe's targets
        name the attention.
    """

    name: str
    title: str
    source: str
    formula: str
    exportable: bool = True
    settings: tuple[str, ...] = ()
    needs_mlp: bool = False
    ridge: float = 0.01
    edit_run: EditRun | None = field(default=None, repr=False)
    edit_model: EditModel | None = field(default=None, repr=False)
    edit_weights: EditWeights | None = field(default=None, repr=False)
    edit_attention: EditModel | None = field(default=None, repr=False)

    def traces_mlp(self, targets: Sequence[str]) -> bool:
        """Whether the calibration trace must hold the MLPs' outputs. targets: the recipe's."""
        return self.needs_mlp and "mlp" in targets

    @property
    def fitted(self) -> bool:
        """Whether it needs calibration samples."""
        return self.edit_run is not None or self.edit_model is not None

    @property
    def ranked(self) -> bool:
        """Whether it has a rank that can be chosen."""
        return "rank" in self.settings


def _edit(
    name: str,
    module: str = "edits",
) -> EditRun:
    """An edit by its name in a file of this room, which brings torch: the registry alone is read
    without it.
    """

    def edit_run(
        fit: Fit,
        first: int,
        last: int,
    ) -> Edit:
        edits = import_module(f"svl_core.pruning.{module}")
        return getattr(edits, name)(fit, first, last)

    return edit_run


def _refit(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    from svl_core.pruning.refit import refit

    return refit(
        full,
        pruned,
        fit.trace,
        ridge=fit.ridge,
        answer_weight=fit.recipe.answer_weight,
        targets=fit.recipe.targets,
        run=run,
    )


def _magnitude(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    from svl_core.pruning.scaling import scale_gaps

    return scale_gaps(full, pruned, fit.trace)


def _attention(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    from svl_core.pruning.attention_fit import fit_attention

    return fit_attention(full, pruned, fit, run)


def _light_layers(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    from svl_core.pruning.light import light_layers

    return light_layers(full, pruned, fit, run)


def _concatenate(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    from svl_core.pruning.concatenating import concatenate

    return concatenate(full, pruned, fit.trace, run)


def _collapse(full: LVLM, pruned: LVLM) -> list[int]:
    from svl_core.pruning.merging import collapse

    return collapse(full, pruned)


_ROWS = (
    Compensation("none", "none", "-", "W unchanged"),
    Compensation(
        "scp",
        "SCP (as published)",
        "Short-LVLM, arXiv 2507.23362",
        "W <- (I + strength V_k V_k^T) W, V_k from the SVD of D = H[b+1] - H[a] (or H[a+1] -"
        " H[a]), rows = tokens or sample means",
        settings=(*SUBSPACE, "targets", "gap_rows", "gap_centred", "gap_span"),
        edit_run=_edit("scp"),
    ),
    Compensation(
        "lstsq",
        "least squares",
        "after ReplaceMe, arXiv 2505.02819",
        "W_down <- T^T W_down, T = argmin |M T - (H[b+1] - H[a] + M)|^2 + ridge |T - I|^2",
        settings=("strength", "ridge", "weighted", "tokens", "targets"),
        needs_mlp=True,
        edit_run=_edit("lstsq"),
        edit_attention=_attention,
    ),
    Compensation(
        "bridge",
        "linear bridge (adds a module)",
        "this project",
        "H <- H + H B + c behind the layer, rank k, argmin |H[a] B + c - (H[b+1] - H[a])|^2"
        " + ridge |B|^2",
        exportable=False,
        settings=(*SUBSPACE, "ridge", "weighted"),
        edit_run=_edit("bridge"),
    ),
    Compensation(
        "refit",
        "refit (all later layers)",
        "this project",
        "W <- W + D^T for the target projections (the MLP's first) of every layer from the first"
        " gap on, in order; D = argmin |A D - (H_full - H_pruned)|^2 + ridge |D|^2, answers"
        " included",
        settings=("ridge", "answer_weight", "targets"),
        ridge=0.1,
        edit_model=_refit,
    ),
    Compensation(
        "linearpatch",
        "LinearPatch (adds a module)",
        "LinearPatch, arXiv 2505.24680 (without its training)",
        "H <- H Q diag(s) Q^T behind the layer, Q a Hadamard matrix, s = mean over samples of"
        " mean |H[b+1] Q| / mean |H[a] Q| over all tokens",
        exportable=False,
        edit_run=_edit("linearpatch", "scaling"),
    ),
    Compensation(
        "magnitude",
        "magnitude (Prune&Comp)",
        "Prune&Comp, arXiv 2507.18212 (without its loop)",
        "W_out <- W_out / a in attention and MLP of every later layer, for each gap; a = mean over"
        " channels and samples of mean |H[b+1]| / mean |H[a]| over all tokens",
        edit_model=_magnitude,
    ),
    Compensation(
        "laco",
        "LaCo (layers merged)",
        "LaCo, arXiv 2402.11187 (merging only)",
        "W_r <- W_r + sum over the dropped layers k of (W_k - W_r), for all projections of the"
        " layer r before them; no samples",
        edit_weights=_collapse,
    ),
    Compensation(
        "come",
        "CoMe (heads and neurons concatenated)",
        "CoMe, arXiv 2510.15304 (merging only)",
        "layer r before the gap <- the heads and neurons j of r and of the dropped layers with the"
        " largest mean |x_j| |W_:j|_1, from each layer in proportion to mean (1 - cos(H[l],"
        " H[l+1])); norms: their mean",
        edit_model=_concatenate,
    ),
    Compensation(
        "light-layer",
        "light layer (adds a module)",
        "after LLM-Streamline, arXiv 2403.19135 (in closed form)",
        "H <- H + F W behind the layer, F what enters the down-projection of the first dropped"
        " layer's MLP on H, W = argmin |F W - (H[b+1] - H[a])|^2 + ridge |W|^2",
        exportable=False,
        settings=("ridge", "weighted", "tokens"),
        ridge=1.0,
        edit_model=_light_layers,
    ),
)
COMPENSATIONS: Mapping[str, Compensation] = MappingProxyType({row.name: row for row in _ROWS})


def compensation_of(name: str) -> Compensation:
    """The registry's entry. Raises InputError for an unknown name, naming the valid ones."""
    if name not in COMPENSATIONS:
        raise InputError(
            f"Found the compensation {name!r}; expected one of {', '.join(COMPENSATIONS)};"
            " choose one."
        )
    return COMPENSATIONS[name]
