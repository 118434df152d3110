"""Which backend and which load options suit a machine."""

import sys
from pathlib import Path

import pytest

from svl_core.errors import InputError
from svl_core.progress import Run
from svl_core.service import deployment
from svl_core.service.backend import LocalBackend
from svl_core.service.limits import HOME, PUBLIC
from svl_core.service.stores import Models


@pytest.fixture
def zero_gpu(monkeypatch):
    """A Space whose GPU is lent; `spaces.GPU` runs the function itself."""
    from types import ModuleType

    spaces = ModuleType("spaces")
    spaces.GPU = lambda duration: lambda function: function
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.setattr(deployment, "on_zero_gpu", lambda: True)


def test_a_machine_of_ones_own_computes_itself(tiny):
    models = deployment.models_for(tiny, PUBLIC)
    assert models.first == "tiny" and models.ready("tiny") and not models.pickle_weights
    assert deployment.load_options("anything") == {}
    assert type(deployment.choose_backend(models, HOME)) is LocalBackend


def test_a_lent_gpu_takes_what_does_not_fit_the_page(zero_gpu, tiny, tiny_sample):
    import svl_core as svl
    from svl_core.recipe import Recipe
    from svl_core.service.zero_gpu import ZeroGpuBackend

    assert deployment.load_options("demo") == {"device": "cpu", "dtype": "auto"}
    assert deployment.load_options("a/large") == {"device": "cpu", "dtype": "bfloat16"}
    backend = deployment.choose_backend(Models(tiny), HOME)
    assert isinstance(backend, ZeroGpuBackend)
    plan, recipe, folder = svl.manual_plan([2], 6), Recipe(), Path("nowhere")
    trace = svl.trace(tiny, [tiny_sample])
    asked = {
        "traced": ([tiny_sample], False),
        "rank": ([tiny_sample], trace, recipe),
        "sublayers": (trace, recipe, "all"),
        "choose": ("best", [tiny_sample], [plan]),
        "sweep": ([tiny_sample], [tiny_sample], recipe, {}, print),
        "ablate": ([tiny_sample], {}),
        "evaluate": ([], plan, recipe, (), 4),
        "save": (plan, recipe, (), folder),
    }
    for name, values in asked.items():
        with pytest.raises(InputError, match="borrows its GPU"):
            getattr(backend, name)("tiny", *values, run=Run())
    backend.local_models = frozenset({"tiny"})
    assert backend.traced("tiny", [tiny_sample], False, run=Run()).num_layers == 6


def test_models_are_loaded_with_the_options_of_the_machine(tiny, monkeypatch):
    import svl_core as svl

    asked = {}

    def load(name, **options):
        options.pop("run").report(0.5, "reading the weights")
        asked[name] = options
        return tiny

    monkeypatch.setattr(svl, "load", load)
    models = Models("demo", load_options=lambda name: {"device": "cpu"}, pickle_weights=False)
    assert models.request("demo").result(30) is tiny
    assert asked == {"demo": {"device": "cpu", "text_only": True, "pickle_weights": False}}
    assert models.loading["demo"] == (0.5, "reading the weights")
    assert models.forked().load_options("demo") == {"device": "cpu"}
