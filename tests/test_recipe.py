"""`Recipe` and `Run`: bounds and sentences of every field, texts read or refused, parts of runs."""

import dataclasses
import json
import threading

import pytest

from svl_core.errors import Cancelled, InputError
from svl_core.progress import QUIET, Run
from svl_core.recipe import DEFAULT, OPTIONS, Recipe, numbers_in

OTHER = {  # for every field a value that is not its default, and the text that means it
    "criterion": ("shortgpt", "shortgpt"),
    "top_p": (0.7, "0.7"),
    "top_p_mode": ("mass", "mass"),
    "text_self": ("given", "given"),
    "causal_correction": (True, "1"),
    "rounds": (2, "2"),
    "protect_ends": (False, "0"),
    "seed": (3, "3"),
    "text_ends": ("sink-aware", "sink-aware"),
    "drop": (2, "2"),
    "layers": ((1, 3), "1,3"),
    "granularity": ("half", "half"),
    "drop_attention": ((1, 3, 4), "1,3-4"),
    "drop_mlp": ((2,), "2"),
    "preset": ("as-published", "as-published"),
    "compensation": ("scp", "scp"),
    "rank": (2, "2"),
    "energy": (0.8, "0.8"),
    "strength": (0.5, "0.5"),
    "targets": (("mlp", "attention"), "mlp,attention"),
    "ridge": (0.2, "0.2"),
    "answer_weight": (5.0, "5"),
    "weighted": (True, "1"),
    "tokens": ("all", "all"),
    "gap_rows": ("samples", "samples"),
    "gap_centred": (True, "1"),
    "gap_span": ("layer", "layer"),
    "calibration": ("this", "this"),
    "calibration_size": (8, "8"),
    "detail": ("quick", "quick"),
    "max_visual_tokens": (100, "100"),
    "visual_share": (0.5, "0.5"),
    "visual_tokens": ("fastv", "fastv"),
    "visual_from": (2, "2"),
    "visual_layers": ((1, 3, 4), "1,3-4"),
}


def test_every_field_has_an_option_with_words_for_it():
    assert list(OPTIONS) == [field.name for field in dataclasses.fields(Recipe)] == list(OTHER)
    for option in OPTIONS.values():
        assert option.label and option.help and option.group and option.expected
    flags = [option.option for option in OPTIONS.values()]
    assert len(set(flags)) == len(flags) and "--unprotect-ends" in flags


@pytest.mark.parametrize("name", OTHER)
def test_a_field_goes_through_text_and_json_and_back(name):
    value, text = OTHER[name]
    assert OPTIONS[name].parsed(text) == value != getattr(DEFAULT, name)
    recipe = Recipe.of(**{name: value})
    assert recipe.unusual() == {name: value}
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", float("nan"), "a number"),
        ("top_p", True, "a number"),
        ("top_p_mode", "half", "fraction, mass"),
        ("rank", -1, "from 1, or 'auto'"),
        ("rank", 2.5, "whole number"),
        ("rank", "four", "whole number"),
        ("strength", 1e308, "from 0 to 100"),
        ("strength", float("inf"), "from 0 to 100"),
        ("energy", 1.1, "at most 1, or none"),
        ("ridge", -0.1, "from 0, or none"),
        ("targets", ["head"], "mlp, attention"),
        ("targets", [], "mlp, attention"),
        ("targets", "mlp", "mlp, attention"),
        ("layers", ["x"], "3,5-7"),
        ("layers", [1.5], "3,5-7"),
        ("rounds", 0, "from 1, or none"),
        ("calibration_size", 0, "from 1 to 100,000"),
        ("calibration_size", None, "from 1 to 100,000"),
        ("criterion", None, "a name"),
        ("protect_ends", "yes", "true or false"),
        ("detail", "half", "auto, full, balanced, quick"),
        ("max_visual_tokens", 0, "from 1, or none"),
        ("visual_share", 0.0, "above 0 and at most 1"),
        ("tokens", "every", "important, all, visual, textual, last"),
        ("text_ends", "first", "scored, sink-aware"),
        ("gap_rows", "words", "tokens, samples"),
        ("gap_span", "model", "run, layer"),
    ],
)
def test_what_a_field_refuses_is_one_sentence(name, value, expected):
    with pytest.raises(InputError) as refused:
        Recipe.of(**{name: value})
    said = str(refused.value)
    assert said.startswith("Found ") and expected in said and said.endswith("change it.")


@pytest.mark.parametrize("text", ["nan", "-3", "1e999", "", "1_0", "٣", "0", "9" * 5000, "true"])
def test_texts_that_are_no_rank(text):
    with pytest.raises(InputError) as refused:
        OPTIONS["rank"].parsed(text)
    assert len(str(refused.value)) < 200


def test_what_is_no_field_is_named():
    for make in (Recipe.of, DEFAULT.changed, lambda **data: Recipe.from_json(data)):
        with pytest.raises(InputError, match="'rnak'; expected one of criterion"):
            make(rnak=3)


def test_a_recipe_is_frozen_and_compared_by_value():
    assert Recipe(layers=[3, 1]) == Recipe(layers=(1, 3))
    assert hash(Recipe()) == hash(Recipe.of())
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.rank = 8
    assert DEFAULT.changed(rank=8).rank == 8 and DEFAULT.rank == 4


def test_ranges_by_hand():
    assert numbers_in("3,5-7") == (3, 5, 6, 7) and numbers_in(" 0 ") == (0,)
    for text in ("", "1,", "7-5", "-1", "a", "1-", "1.5", "99999999999"):
        with pytest.raises(ValueError):
            numbers_in(text)


def test_parts_of_a_run_tell_the_share_of_the_whole():
    told = []
    run = Run(lambda share, what: told.append((share, what)))
    first, second = run.part(0, 0.5), run.part(0.5, 1, "fitting")
    first.report(0.5, "tracing")
    second.part(0.5, 1).step(1.0, "inner")
    run.report(None, "waiting")
    assert told == [(0.25, "tracing"), (1.0, "fitting"), (None, "waiting")]
    QUIET.step(0.5, "nobody listens")
    apart = []
    second.telling(lambda share, what: apart.append((share, what))).report(0.5, "apart")
    assert apart == [(0.5, "apart")] and len(told) == 3


def test_a_cancelled_run_ends_its_parts_too():
    cancel = threading.Event()
    run = Run(cancel=cancel)
    run.check()
    cancel.set()
    assert run.cancelled and run.part(0, 0.5).cancelled and run.silent().cancelled
    with pytest.raises(Cancelled, match="before the end"):
        run.part(0, 1).check("Stopped before the end.")
