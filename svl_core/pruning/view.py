"""The pruned view of an LVLM: fewer layers, or halves of layers, every tensor shared with the full
model.

The view is an ordinary model of the same class with its own config, hooks and attention setting, so
the full model is never touched, both can run at once, and saving writes a plain checkpoint. To
change a weight of a view, assign a new Parameter: writing in place would reach the full model.
"""

from __future__ import annotations

from collections.abc import Sequence

from svl_core.analysis.gap import runs_of
from svl_core.errors import InputError
from svl_core.lvlm import families, halves, skeleton
from svl_core.lvlm.model import LVLM
from svl_core.recipe import ATTENTION, MLP


def pruned_view(
    lvlm: LVLM,
    keep: Sequence[int],
    *,
    attention: Sequence[int] = (),
    mlp: Sequence[int] = (),
) -> LVLM:
    """`lvlm` with only some of its decoder layers, or of their halves, sharing all tensors.

    keep: 0-based indices into the layers present, in any order.
    attention, mlp: those of them that skip their attention, or their MLP; it is not computed.

    An already pruned LVLM will do as well: `layer_ids` go on naming the original model's layers,
    and the provenance lists those "dropped" and what is "skipped". Raises InputError for an empty,
    repeated or out-of-range choice, one that drops a protected layer or skips its attention, and
    halves that cannot be skipped; SVLError for a model whose config has settings per layer that are
    not known here.
    """
    keep = families.check_keep(keep, lvlm.num_layers, lvlm.protected)
    ids = [lvlm.layer_ids[layer] for layer in keep]
    ever_present = {*lvlm.provenance.get("dropped", ()), *lvlm.layer_ids}
    dropped = sorted(ever_present - set(ids))
    provenance = lvlm.provenance
    if dropped:
        provenance = {**provenance, "dropped": dropped}
    model = skeleton.with_layers(lvlm.model, keep)
    _check_skipped(lvlm, keep, attention, mlp)
    halves.skip(model, ATTENTION, [keep.index(layer) for layer in attention])
    halves.skip(model, MLP, [keep.index(layer) for layer in mlp])
    view = lvlm.with_model(model, ids, provenance)
    if view.skipped:
        lacking = {half: list(layers) for half, layers in view.skipped.items()}
        view = view.with_model(model, ids, {**provenance, "skipped": lacking})
    return view


def _check_skipped(
    lvlm: LVLM,
    keep: Sequence[int],
    attention: Sequence[int],
    mlp: Sequence[int],
) -> None:
    """Raises InputError for halves of layers that do not stay, and for the attention of a layer
    that the model cannot run without: others may look at its keys.
    """
    absent = sorted({*attention, *mlp} - {*keep})
    if absent:
        raise InputError(
            f"Found the layers {absent} to skip a half of; expected some of those that stay,"
            f" {list(keep)}; correct the choice."
        )
    needed = sorted({*attention} & {*lvlm.protected})
    if needed:
        raise InputError(
            f"Found the attention of the protected layers {needed} among what is skipped; expected"
            " it to stay, for this model cannot work without it; leave it in."
        )


def places_of(
    full: LVLM,
    pruned: LVLM,
) -> list[int]:
    """Where the layers of a pruned view lie in the model that it is a view of, 0-based."""
    ids = full.layer_ids
    return [ids.index(ident) for ident in pruned.layer_ids]


def gaps_of(
    full: LVLM,
    pruned: LVLM,
) -> list[tuple[int, int]]:
    """The runs (first, last) of layers of `full` that its view `pruned` lacks, without one that has
    no layer before it.
    """
    everything = set(range(full.num_layers))
    gone = everything.difference(places_of(full, pruned))
    return [run for run in runs_of(list(gone)) if run[0] > 0]
