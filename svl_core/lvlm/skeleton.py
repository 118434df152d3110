"""A model with fewer decoder layers that shares every tensor with the full one: a skeleton without
weights, pointed at the full model's tensors.

Made on torch's meta device, it costs a fraction of a second and no memory whatever the model's
size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from transformers import initialization

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import blanks, cutting, families, halves
from svl_core.recipe import HALVES

# Attributes of a quantised model that its view has too.
QUANTIZATION = (
    "quantization_method",
    "hf_quantizer",
    "is_quantized",
    "is_loaded_in_4bit",
    "is_loaded_in_8bit",
)


def empty(model_class: type, config):
    """A model of `model_class` without weights (all tensors on the meta device)."""
    with (
        torch.device("meta"),
        initialization.no_init_weights(),
        initialization.no_tie_weights(),
    ):
        return model_class(config)


def with_layers(model, keep: Sequence[int]):
    """A model of `model`'s class with only some of its decoder layers, sharing its tensors.

    Works on quantised models (their special modules are shared too) and on models spread over
    devices by accelerate.

    model: a transformers model.
    keep: the layers that it has, increasing; their new numbers are 0, 1, ..

    Halves of layers that the model skips, the view skips too. Raises SVLError for a config or a
    tensor whose meaning per layer is not known, InputError for layers that something was added to.
    """
    if hasattr(model, "brought_layers"):
        return model.with_layers(keep)
    skipped = _skipped_among(model, keep)
    model = halves.restored(model)
    prefix = families.layers_prefix(model)
    layers = len(families.decoder_layers(model))

    def made():
        checked = cutting.cut_config(model.config, keep, layers)
        return empty(type(model), checked).train(model.training)

    config = cutting.copied(model.config, keep, layers)
    view = blanks.blank(model, config, made)
    _share_special_modules(model, view, prefix, keep)
    for slot in ("_parameters", "_buffers"):
        _share_tensors(model, view, slot, keep, prefix, layers)
    view.generation_config = copy.deepcopy(model.generation_config)
    if view.training != model.training:
        view.train(model.training)
    for attribute in QUANTIZATION:
        if attribute in vars(model):
            setattr(view, attribute, getattr(model, attribute))
    view = _dispatched(model, view, prefix, keep)
    for half, places in skipped.items():
        halves.skip(view, half, places)
    return view


def _skipped_among(model, keep: Sequence[int]) -> dict[str, list[int]]:
    """half -> the places, among the layers that are kept, of those that skip it."""
    layers = families.decoder_layers(model)
    places: dict[str, list[int]] = {}
    for half in HALVES:
        lacking = halves.skipped(layers, half)
        places[half] = [place for place, layer in enumerate(keep) if layer in lacking]
    return places


def _share_tensors(
    model,
    view,
    slot: str,
    keep: Sequence[int],
    prefix: str,
    layers: int,
) -> None:
    """Puts the full model's tensors in the place of the view's placeholders.

    slot: "_parameters" or "_buffers".
    layers: how many the full model has.
    """
    modules = dict(view.named_modules(remove_duplicate=False))
    source = dict(_tensors(model, slot))
    shared = set()
    for name, placeholder in list(_tensors(view, slot)):
        full = _full_name(name, prefix, keep)
        shared.add(full)
        tensor = source.get(full)
        if tensor is None:
            raise SVLError(
                f"Found no tensor {full} in {type(model).__name__}; expected it for {name} of"
                " the pruned model; this model cannot be pruned."
            )
        owner, _, leaf = name.rpartition(".")
        if tensor.shape != placeholder.shape:
            holder = model.get_submodule(_full_name(owner, prefix, keep))
            stored = materialized(holder, leaf)
            assert stored is not None, "the full model has this tensor"
            tensor = _sliced(name, stored, keep, layers)
        if tensor.shape != placeholder.shape:
            raise SVLError(
                f"Found {name} of shape {tuple(tensor.shape)}; expected"
                f" {tuple(placeholder.shape)} for the layers kept; this model cannot be pruned."
            )
        getattr(modules[owner], slot)[leaf] = tensor
    for name in source:
        layer = name[len(prefix) :].split(".")[0] if name.startswith(prefix) else None
        if layer is not None and int(layer) in keep and name not in shared:
            raise InputError(
                f"Found {name}, added to the model's own layers; expected none, for it would be"
                " lost; prune the model without it, all layers at once."
            )


def _tensors(
    model,
    slot: str,
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of all parameters or buffers, tied ones under each name; an empty one where
    accelerate keeps the real one elsewhere.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf, tensor in getattr(module, slot).items():
            if tensor is not None:
                yield (f"{path}.{leaf}" if path else leaf), tensor


def materialized(
    module: torch.nn.Module,
    leaf: str,
) -> torch.Tensor | None:
    """A module's parameter or buffer with its numbers, wherever they are.

    Of a tensor that accelerate keeps elsewhere (offloaded to the processor's memory or the disk
    until it is used), the module itself holds only an empty stand-in on the meta device; this gives
    the stored one.

    leaf: the tensor's name in the module.
    """
    tensor = getattr(module, leaf, None)
    stored = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    if tensor is None or stored is None or tensor.device.type != "meta":
        return tensor
    return stored[leaf]


def running_device(module: torch.nn.Module) -> torch.device:
    """The device on which a module computes, also where accelerate brings its weights there only
    then.
    """
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(module.parameters()).device


def assign(module: torch.nn.Module, **parameters: torch.Tensor) -> None:
    """Gives a module of a view new parameters; those that it shares stay as they are.

    The parameters of a module that accelerate keeps elsewhere come to stay: all of them, for a
    module is offloaded as a whole.
    """
    hook = getattr(module, "_hf_hook", None)
    offloaded = getattr(hook, "offload", False)
    if offloaded:
        for leaf in module._parameters:
            stored = materialized(module, leaf)
            if stored is not None:
                parameters.setdefault(leaf, stored)
    for leaf, tensor in parameters.items():
        setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=False))
    if offloaded:
        _hooked(module, hook, offload=False, weights_map=None)


def _hooked(
    module: torch.nn.Module,
    hook,
    **changes,
) -> None:
    """Puts a copy of another module's accelerate hook on `module`; it takes its weights from where
    that hook takes them.
    """
    from accelerate.hooks import add_hook_to_module, remove_hook_from_module

    copied = copy.copy(hook)
    for name, value in changes.items():
        setattr(copied, name, value)
    add_hook_to_module(remove_hook_from_module(module), copied)


def _share_special_modules(
    model,
    view,
    prefix: str,
    keep: Sequence[int],
) -> None:
    """Where the full model holds another kind of module than the skeleton (quantised linear maps),
    a shallow copy of it.
    """
    full = dict(model.named_modules(remove_duplicate=False))
    for name, placeholder in list(view.named_modules()):
        known = _full_name(name, prefix, keep)
        source = full.get(known)
        if source is None:
            raise SVLError(
                f"Found no part {known} in {type(model).__name__}; expected it for {name} of the"
                " pruned model, for its config tells it so; these layers cannot go alone."
            )
        if name and type(source) is not type(placeholder) and not any(source.children()):
            module = copy.copy(source)
            module._parameters = dict(source._parameters)
            module._buffers = dict(source._buffers)
            owner, _, leaf = name.rpartition(".")
            setattr(view.get_submodule(owner), leaf, module)


def _sliced(
    name: str,
    tensor: torch.Tensor,
    keep: Sequence[int],
    layers: int,
) -> torch.Tensor:
    """For a tensor that holds one block a layer, a copy of the kept layers' blocks; any other as it
    is.
    """
    dimension = next(
        (dimension for ending, dimension in families.SLICED.items() if name.endswith(ending)),
        None,
    )
    if dimension is None:
        return tensor
    blocks = (
        tensor.unflatten(dimension, (layers, -1))
        .index_select(dimension, torch.tensor(keep, device=tensor.device))
        .flatten(dimension, dimension + 1)
    )
    return torch.nn.Parameter(blocks, requires_grad=tensor.requires_grad)


def _full_name(
    name: str,
    prefix: str,
    keep: Sequence[int],
) -> str:
    """The full model's name for a part of the view: layers.{new} stands for layers.{keep[new]}."""
    if not name.startswith(prefix):
        return name
    index, dot, rest = name[len(prefix) :].partition(".")
    return f"{prefix}{keep[int(index)]}{dot}{rest}"


def _dispatched(
    model,
    view,
    prefix: str,
    keep: Sequence[int],
):
    """Runs each part of the view where the full model's runs; nothing is copied, and what
    accelerate keeps in memory or on the disk stays there.
    """
    device_map = getattr(model, "hf_device_map", None)
    if not device_map:
        return view
    new = {str(old): str(index) for index, old in enumerate(keep)}
    mapped = {}
    for name, device in device_map.items():
        if name.startswith(prefix):
            index, dot, rest = name[len(prefix) :].partition(".")
            if index not in new:
                continue
            name = f"{prefix}{new[index]}{dot}{rest}"
        mapped[name] = device
    view.hf_device_map = mapped
    if len(set(map(str, device_map.values()))) > 1:
        for name, module in list(view.named_modules()):
            hook = getattr(
                model.get_submodule(_full_name(name, prefix, keep)),
                "_hf_hook",
                None,
            )
            if hook is not None:
                here = getattr(hook, "offload", False) and all(
                    tensor.device.type != "meta" for tensor in module.parameters(recurse=False)
                )
                _hooked(
                    module,
                    hook,
                    **({"offload": False, "weights_map": None} if here else {}),
                )
    return view
