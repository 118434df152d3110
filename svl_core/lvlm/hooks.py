"""Forward hooks: the only file that registers any.

`ThreadHooks` looks into the passes of one thread. Several threads may run one model at the same
time, each with hooks of its own, and none of them sees another's pass. `bridge_output` changes what
a layer hands on, for good and for every thread.

Torch looks a hook up twice: which hooks there are, and then whether a hook wants the keyword
arguments. Where another thread registers or removes a hook in between, torch calls it without them.
Every hook here therefore takes `(module, args, *rest)`, with the keyword arguments in `rest` or
without them.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

InputAction = Callable[[tuple, Mapping[str, Any]], None]
"""Called with the arguments and keyword arguments of a module's call, before it runs."""

OutputAction = Callable[[tuple, Mapping[str, Any], Any], Any]
"""Called with the same and the output, after the call; returns another output, or None."""

_REGISTRY = threading.Lock()  # torch hands out the hooks' numbers without a lock


def hidden_input(
    args: tuple,
    kwargs: Mapping[str, Any],
) -> torch.Tensor:
    """The hidden states (B, S, d) in the arguments of a decoder layer's call: the first one, or the
    one of that name, or the first by name that has their form.
    """
    if args:
        return args[0]
    if "hidden_states" in kwargs:
        return kwargs["hidden_states"]
    return next(value for value in kwargs.values() if getattr(value, "ndim", 0) == 3)


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states (B, S, d) in a decoder layer's output, which may hold more than them."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(
    output: Any,
    hidden: torch.Tensor,
) -> Any:
    """A decoder layer's output with other hidden states (B, S, d) in it."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class ThreadHooks:
    """Hooks that see the calls of one thread, the one that makes this object.

    They are removed at the end of the `with` block, also after an error.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def on_input(
        self,
        module: torch.nn.Module,
        action: InputAction,
    ) -> None:
        """Calls `action` before each call of `module`. What it raises ends the pass."""

        def hook(module: torch.nn.Module, args: tuple, *rest: Any) -> None:
            if threading.get_ident() == self._thread:
                action(args, rest[0] if rest else {})

        with _REGISTRY:
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def on_output(
        self,
        module: torch.nn.Module,
        action: OutputAction,
    ) -> None:
        """Calls `action` after each call of `module`; what it returns replaces the output."""

        def hook(module: torch.nn.Module, args: tuple, *rest: Any) -> Any:
            if threading.get_ident() != self._thread:
                return None
            *kwargs, output = rest
            return action(args, kwargs[0] if kwargs else {}, output)

        with _REGISTRY:
            self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Removes all hooks of this object."""
        with _REGISTRY:
            for handle in self._handles:
                handle.remove()
        self._handles.clear()

    def __enter__(self) -> ThreadHooks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


@contextlib.contextmanager
def captured_calls(
    module: torch.nn.Module,
) -> Iterator[list[tuple[tuple, Mapping[str, Any]]]]:
    """Within this block the (args, kwargs) of this thread's calls of `module` are appended to the
    list.
    """
    calls: list[tuple[tuple, Mapping[str, Any]]] = []
    with ThreadHooks() as hooks:
        hooks.on_input(module, lambda args, kwargs: calls.append((args, kwargs)))
        yield calls


class _Reached(Exception):
    """Ends a forward pass."""


@contextlib.contextmanager
def ended_at(module: torch.nn.Module) -> Iterator[list[tuple[tuple, Mapping[str, Any]]]]:
    """Within this block this thread's first call of `module` ends the pass, and the block.

    Gives a list, which then holds the (args, kwargs) of that call. Other threads' passes go on.
    """
    calls: list[tuple[tuple, Mapping[str, Any]]] = []

    def capture(args: tuple, kwargs: Mapping[str, Any]) -> None:
        calls.append((args, kwargs))
        raise _Reached

    with ThreadHooks() as hooks, contextlib.suppress(_Reached):
        hooks.on_input(module, capture)
        yield calls


def pass_over(
    args: tuple,
    kwargs: Mapping[str, Any],
    output: Any,
) -> Any:
    """The output action of a layer that is skipped: what came in goes out."""
    return with_hidden(output, hidden_input(args, kwargs))


def bridge_output(
    layer: torch.nn.Module,
    bridge: str,
) -> None:
    """From now on, in every thread, the layer's hidden states go through its submodule `bridge`.

    bridge: the submodule's name. It is looked up at every call, so that a copy of the layer runs
        the copy's own.
    """

    def hook(module: torch.nn.Module, args: tuple, *rest: Any) -> Any:
        output = rest[-1]
        return with_hidden(output, getattr(module, bridge)(hidden_of(output)))

    with _REGISTRY:
        layer.register_forward_hook(hook)


def shallow_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module that shares everything, its hooks too, but the table of its children."""
    copied = copy.copy(module)
    copied.__dict__["_modules"] = dict(module._modules)
    return copied


def with_other_layers(
    model: torch.nn.Module,
    prefix: str,
    layers: Sequence[torch.nn.Module],
) -> torch.nn.Module:
    """A model that shares everything with `model` but its list of layers.

    Only the modules on the way to the list are copied, shallowly, so that other threads may use the
    model meanwhile.

    prefix: the list's dotted name with the closing dot, as `families.layers_prefix` gives it.
    layers: as many as the list has.
    """
    import torch

    root = shallow_copy(model)
    parent = root
    *path, name_of_layers, _ = prefix.split(".")
    for name in path:
        child = shallow_copy(parent.get_submodule(name))
        parent._modules[name] = child
        parent = child
    parent._modules[name_of_layers] = torch.nn.ModuleList(layers)
    return root
