"""A model with fewer decoder layers that shares every tensor with the full one: a skeleton without weights, pointed at
the full model's tensors.

Made on torch's meta device, it costs a fraction of a second and no memory whatever the model's size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from transformers import initialization

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families


def empty(model_class: type, config):
    """A model of `model_class` without weights (all tensors on the meta device)."""
    with torch.device("meta"), initialization.no_init_weights(), initialization.no_tie_weights():
        return model_class(config)


def with_layers(model, keep: Sequence[int]):
    """A model of `model`'s class with only the decoder layers `keep` (increasing), sharing its tensors.

    Works on quantised models (their special modules are shared too) and on models spread over devices by accelerate.
    Raises SVLError for a config or a tensor whose meaning per layer is not known, InputError for layers that something was added to.
    """
    prefix, layers = families.layers_prefix(model), len(families.decoder_layers(model))
    view = empty(type(model), families.cut_config(model.config, keep, layers))
    _share_special_modules(model, view, prefix, keep)
    for slot in ("_parameters", "_buffers"):
        source = dict(_tensors(model, slot))
        for name, placeholder in list(_tensors(view, slot)):
            full = _full_name(name, prefix, keep)
            tensor = source.get(full)
            if tensor is None:
                raise SVLError(f"Found no tensor {full} in {type(model).__name__}; expected it for {name} of the pruned model; this model cannot be pruned.")
            if tensor.shape != placeholder.shape:
                tensor = _sliced(name, tensor, keep, layers)
            if tensor.shape != placeholder.shape:
                raise SVLError(f"Found {name} of shape {tuple(tensor.shape)}; expected {tuple(placeholder.shape)} for the layers kept; this model cannot be pruned.")
            owner, _, leaf = name.rpartition(".")
            getattr(view.get_submodule(owner), slot)[leaf] = tensor
        copied = {_full_name(name, prefix, keep) for name, _ in _tensors(view, slot)}
        if added := [name for name in source if name.startswith(prefix) and int(name[len(prefix):].split(".")[0]) in keep and name not in copied]:
            raise InputError(f"Found {added[0]}, added to the model's own layers; expected none, for it would be lost; prune the model without it, all layers at once.")
    view.generation_config = copy.deepcopy(model.generation_config)
    view.train(model.training)
    for attribute in ("quantization_method", "hf_quantizer", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if attribute in vars(model):
            setattr(view, attribute, getattr(model, attribute))
    return _dispatched(model, view, prefix, keep)


def _tensors(model, slot: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of all parameters or buffers, tied ones under each name; the real one where accelerate keeps it elsewhere."""
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf, tensor in getattr(module, slot).items():
            if tensor is None:
                continue
            weights = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
            if tensor.device.type == "meta" and weights is not None:
                real = weights[leaf]
                tensor = torch.nn.Parameter(real, requires_grad=False) if slot == "_parameters" else real
            yield (f"{path}.{leaf}" if path else leaf), tensor


def _share_special_modules(model, view, prefix: str, keep: Sequence[int]) -> None:
    """Where the full model holds another kind of module than the skeleton (quantised linear maps), a shallow copy of it."""
    for name, placeholder in list(view.named_modules()):
        source = model.get_submodule(_full_name(name, prefix, keep))
        if name and type(source) is not type(placeholder) and not any(source.children()):
            module = copy.copy(source)
            module._parameters, module._buffers = dict(source._parameters), dict(source._buffers)
            owner, _, leaf = name.rpartition(".")
            setattr(view.get_submodule(owner), leaf, module)


def _sliced(name: str, tensor: torch.Tensor, keep: Sequence[int], layers: int) -> torch.Tensor:
    """For a tensor that holds one block a layer, a copy of the kept layers' blocks; any other as it is."""
    dimension = next((dimension for ending, dimension in families.SLICED.items() if name.endswith(ending)), None)
    if dimension is None:
        return tensor
    blocks = tensor.unflatten(dimension, (layers, -1)).index_select(dimension, torch.tensor(keep, device=tensor.device)).flatten(dimension, dimension + 1)
    return torch.nn.Parameter(blocks, requires_grad=tensor.requires_grad)


def _full_name(name: str, prefix: str, keep: Sequence[int]) -> str:
    """The full model's name for a part of the view: layers.{new} stands for layers.{keep[new]}."""
    if not name.startswith(prefix):
        return name
    index, dot, rest = name[len(prefix):].partition(".")
    return f"{prefix}{keep[int(index)]}{dot}{rest}"


def _dispatched(model, view, prefix: str, keep: Sequence[int]):
    """Spreads the view over the devices that hold the full model's parts; nothing is copied between devices."""
    device_map = getattr(model, "hf_device_map", None)
    if not device_map:
        return view
    new = {str(old): str(index) for index, old in enumerate(keep)}
    mapped = {}
    for name, device in device_map.items():
        if name.startswith(prefix):
            index, dot, rest = name[len(prefix):].partition(".")
            if index not in new:
                continue
            name = f"{prefix}{new[index]}{dot}{rest}"
        mapped[name] = device
    view.hf_device_map = mapped
    if len(set(map(str, device_map.values()))) > 1:
        from accelerate import dispatch_model

        dispatch_model(view, device_map=mapped)
    return view
