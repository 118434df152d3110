"""The pruned view of an LVLM: fewer layers, every tensor shared with the full model.

The view is an ordinary model of the same class with its own config, hooks and attention setting, so
the full model is never touched, both can run at once, and saving writes a plain checkpoint. To
change a weight of a view, assign a new Parameter: writing in place would reach the full model.
"""

from __future__ import annotations

from collections.abc import Sequence

from svl_core.analysis.gap import runs_of
from svl_core.lvlm import families, skeleton
from svl_core.lvlm.model import LVLM


def pruned_view(lvlm: LVLM, keep: Sequence[int]) -> LVLM:
    """`lvlm` with only some of its decoder layers, sharing all tensors.

    keep: 0-based indices into the layers present, in any order.

    An already pruned LVLM will do as well: `layer_ids` go on naming the original model's layers,
    and the provenance lists those "dropped". Raises InputError for an empty, repeated or
    out-of-range choice or one that drops a protected layer, and SVLError for a model whose config
    has settings per layer that are not known here.
    """
    keep = families.check_keep(keep, lvlm.num_layers, lvlm.protected)
    ids = [lvlm.layer_ids[layer] for layer in keep]
    ever_present = {*lvlm.provenance.get("dropped", ()), *lvlm.layer_ids}
    dropped = sorted(ever_present - set(ids))
    provenance = lvlm.provenance
    if dropped:
        provenance = {**provenance, "dropped": dropped}
    model = skeleton.with_layers(lvlm.model, keep)
    return lvlm.with_model(model, ids, provenance)


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
