"""Hooks see their own thread's passes, stand being called in both of torch's ways, and go again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import svl_core
from svl_core.lvlm import hooks as module
from svl_core.lvlm.hooks import (
    ThreadHooks,
    bridge_output,
    captured_calls,
    hidden_input,
    hidden_of,
    pass_over,
    with_hidden,
)

HIDDEN = torch.arange(6.0).reshape(1, 2, 3)


def test_hidden_states_are_found_wherever_a_layer_has_them():
    assert hidden_input((HIDDEN, None), {}) is HIDDEN
    assert hidden_input((), {"hidden_states": HIDDEN}) is HIDDEN
    assert hidden_of(HIDDEN) is HIDDEN and hidden_of((HIDDEN, "cache")) is HIDDEN
    other = HIDDEN + 1
    assert with_hidden(HIDDEN, other) is other
    assert with_hidden((HIDDEN, "cache"), other) == (other, "cache")
    assert pass_over((other,), {}, (HIDDEN, "cache")) == (other, "cache")


class Recorder:
    """Stands for a module: keeps the hooks that are registered on it."""

    def __init__(self):
        self.hooks = []

    def register_forward_pre_hook(self, hook, with_kwargs=False):
        self.hooks.append(hook)
        return self

    register_forward_hook = register_forward_pre_hook

    def remove(self):
        self.hooks.clear()


def test_a_hook_is_called_with_and_without_keyword_arguments():
    """Without them where another thread's hook comes or goes while torch looks them up."""
    recorder, seen = Recorder(), []
    with ThreadHooks() as hooks:
        hooks.on_input(recorder, lambda args, kwargs: seen.append((args, kwargs)))
        hooks.on_output(recorder, lambda args, kwargs, output: (args, kwargs, output))
        before, after = recorder.hooks
        assert before(recorder, (1,), {"a": 2}) is None and before(recorder, (1,)) is None
        assert seen == [((1,), {"a": 2}), ((1,), {})]
        assert after(recorder, (1,), {"a": 2}, 3) == ((1,), {"a": 2}, 3)
        assert after(recorder, (1,), 3) == ((1,), {}, 3)
        with ThreadPoolExecutor(1) as other_thread:
            for rest in (({"a": 2}, 3), (3,)):
                assert other_thread.submit(after, recorder, (1,), *rest).result() is None
            for rest in (({"a": 2},), ()):
                assert other_thread.submit(before, recorder, (1,), *rest).result() is None
        assert len(seen) == 2
    assert not recorder.hooks
    recorder.bridge = lambda hidden: hidden + 1
    bridge_output(recorder, "bridge")
    (bridge,) = recorder.hooks
    assert torch.equal(bridge(recorder, (), HIDDEN), HIDDEN + 1)
    assert torch.equal(bridge(recorder, (), {"a": 2}, (HIDDEN, None))[0], HIDDEN + 1)


def test_hooks_go_after_an_error_too():
    layer = torch.nn.Linear(3, 3)
    with pytest.raises(ZeroDivisionError), ThreadHooks() as hooks:
        hooks.on_input(layer, lambda args, kwargs: 1 / 0)
        hooks.on_output(layer, lambda args, kwargs, output: None)
        layer(HIDDEN)
    assert not layer._forward_pre_hooks and not layer._forward_hooks


def test_calls_are_captured_and_an_output_is_replaced():
    layer = torch.nn.Linear(3, 3)
    whole = layer(HIDDEN)
    with captured_calls(layer) as calls, ThreadHooks() as hooks:
        hooks.on_output(layer, lambda args, kwargs, output: 2 * output)
        assert torch.equal(layer(input=HIDDEN), 2 * whole)
    assert calls == [((), {"input": HIDDEN})]
    assert torch.equal(layer(HIDDEN), whole) and len(calls) == 1


def watched_pass(lvlm, sample, skipped=None) -> tuple[torch.Tensor, list, list]:
    """Logits of one pass, and what entered and left its layers; `skipped` is passed over."""
    entered, left = [], []
    with torch.inference_mode(), ThreadHooks() as hooks:
        for layer in lvlm.layers:
            hooks.on_input(layer, lambda args, kwargs: entered.append(hidden_input(args, kwargs)))
            hooks.on_output(layer, lambda args, kwargs, output: left.append(hidden_of(output)))
        if skipped is not None:
            hooks.on_output(lvlm.layers[skipped], pass_over)
        logits = lvlm.model(**sample.inputs).logits
    return logits, entered, left


def test_eight_threads_register_run_and_remove_on_one_model(tiny, tiny_sample):
    """Each sees all of its own passes and nothing of the others', and nobody's answer changes."""
    rounds, start = 25, threading.Barrier(8)
    existing = [len(layer._forward_hooks) for layer in tiny.layers]
    with torch.inference_mode():
        expected = tiny.model(**tiny_sample.inputs).logits

    def work(number: int) -> None:
        skipped = 2 if number % 2 else None  # half of the threads change their own pass
        start.wait()
        for _ in range(rounds):
            logits, entered, left = watched_pass(tiny, tiny_sample, skipped)
            assert len(entered) == len(left) == tiny.num_layers
            assert torch.equal(logits, expected) == (skipped is None)

    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, number) for number in range(8)]:
            job.result()
    assert [len(layer._forward_hooks) for layer in tiny.layers] == existing
    assert not any(layer._forward_pre_hooks for layer in tiny.layers)


def test_no_other_file_registers_hooks():
    package = Path(svl_core.__file__).parent
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "register_forward" in path.read_text(encoding="utf-8")
    ]
    assert users == [Path(module.__file__).relative_to(package).as_posix()]
