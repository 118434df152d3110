"""A pruned model that shares every tensor with the full one: a skeleton without weights, pointed at the full model's tensors.

The view is an ordinary model of the same class with its own config, hooks and attention setting, so the full model is never
touched, both can run at once, and saving writes a plain checkpoint. To change a weight of a view, assign a new Parameter:
writing in place would reach the full model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import initialization

from svl_core.errors import SVLError
from svl_core.lvlm import families
from svl_core.lvlm.model import LVLM


def pruned_view(lvlm: LVLM, keep: Sequence[int]) -> LVLM:
    """`lvlm` with only the decoder layers `keep` (0-based indices into the layers present, any order), sharing all tensors.

    Works on an already pruned LVLM; `layer_ids` go on naming the original model's layers and provenance
    lists those "dropped". Raises InputError for an empty, repeated or out-of-range choice or one that drops a protected layer.
    """
    keep = families.check_keep(keep, lvlm.num_layers, lvlm.protected)
    model = lvlm.model
    config = families.cut_config(model.config, keep, lvlm.num_layers)
    with torch.device("meta"), initialization.no_init_weights(), initialization.no_tie_weights():
        view = type(model)(config)
    _share(model, view, keep)
    view.generation_config = copy.deepcopy(model.generation_config)
    view.train(model.training)
    ids = [lvlm.layer_ids[i] for i in keep]
    dropped = sorted({*lvlm.provenance.get("dropped", ()), *lvlm.layer_ids} - set(ids))
    return lvlm.with_model(view, ids, {**lvlm.provenance, "dropped": dropped} if dropped else lvlm.provenance)


def _share(model, view, keep: Sequence[int]) -> None:
    """Points every parameter and buffer of `view` at the tensor of `model` that it stands for."""
    prefix, layers = families.layers_prefix(model), len(families.find_decoder(model).layers)
    for listing, slot in (("named_parameters", "_parameters"), ("named_buffers", "_buffers")):
        source = dict(getattr(model, listing)(remove_duplicate=False))
        for name, empty in list(getattr(view, listing)(remove_duplicate=False)):
            tensor = source.get(_full_name(name, prefix, keep))
            if tensor is None:
                raise SVLError(f"Found no tensor {_full_name(name, prefix, keep)} in {type(model).__name__}; expected it for layer view {name}; this model cannot be pruned.")
            if tensor.shape != empty.shape:
                tensor = _sliced(name, tensor, keep, layers)
            if tensor.shape != empty.shape:
                raise SVLError(f"Found {name} of shape {tuple(tensor.shape)}; expected {tuple(empty.shape)} for the layers kept; this model cannot be pruned.")
            owner, _, leaf = name.rpartition(".")
            getattr(view.get_submodule(owner), slot)[leaf] = tensor


def _sliced(name: str, tensor: torch.Tensor, keep: Sequence[int], layers: int) -> torch.Tensor:
    """For a tensor that holds one block a layer, a copy of the kept layers' blocks; any other as it is."""
    dimension = next((dimension for ending, dimension in families.SLICED.items() if name.endswith(ending)), None)
    if dimension is None:
        return tensor
    blocks = tensor.unflatten(dimension, (layers, -1)).index_select(dimension, torch.tensor(keep, device=tensor.device)).flatten(dimension, dimension + 1)
    return torch.nn.Parameter(blocks, requires_grad=tensor.requires_grad)


def _full_name(name: str, prefix: str, keep: Sequence[int]) -> str:
    """The full model's name for a tensor of the view: layers.{new} stands for layers.{keep[new]}."""
    if not name.startswith(prefix):
        return name
    index, _, rest = name[len(prefix):].partition(".")
    return f"{prefix}{keep[int(index)]}.{rest}"
