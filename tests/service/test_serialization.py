"""Only plain values and arrays cross between processes, and come back as they were."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import LAYERS

import svl_core as svl
from svl_core.recipe import Recipe
from svl_core.service import serialization


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        assert module.split(".")[0] == "numpy", f"{module}.{name}"
        return super().find_class(module, name)


def test_values_survive_the_border(tiny, tiny_sample):
    traced = svl.trace(tiny, [tiny_sample], mlp=True)
    unseen = replace(traced.samples[0], sample=tiny_sample)  # features stay where they were made
    trace = replace(traced, samples=(unseen,))
    plan = svl.manual_plan([2, 3], LAYERS)
    comparison = svl.compare(tiny, svl.prune(tiny, plan), tiny_sample, max_new_tokens=3)
    for value in (
        trace,
        comparison,
        plan,
        Recipe(rank=7, targets=("mlp", "attention")),
        (None, True, 3, "x", [0.5, float("inf")]),
    ):
        plain = serialization.pack(value)
        _Plain(io.BytesIO(pickle.dumps(plain))).load()
        assert serialization.pack(serialization.unpack(plain)).__repr__() == plain.__repr__()
    back = serialization.unpack(serialization.pack(trace)).samples[0]
    assert (
        torch.equal(back.features, trace.samples[0].features)
        and np.array_equal(back.sample.visual, tiny_sample.visual)
        and back.sample.key == tiny_sample.key
    )
    assert back.sample.images[0].tobytes() == tiny_sample.images[0].tobytes()
    halves = torch.arange(6).to(torch.bfloat16).reshape(2, 3)
    assert (
        torch.equal(serialization.unpack(serialization.pack(halves)), halves)
        and serialization.unpack(serialization.pack(halves)).dtype == torch.bfloat16
    )
    assert serialization.unpack(serialization.pack(comparison)) == comparison


def test_models_and_functions_stay(tiny):
    for value in (
        tiny,
        tiny.model,
        len,
        lambda: None,
        {"a": tiny.model},
        next(tiny.model.parameters()),
        np.array([object()]),
        torch.nn.Linear(1, 1).weight,
    ):
        with pytest.raises(TypeError, match="border"):
            serialization.pack(value)
