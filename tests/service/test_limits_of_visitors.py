"""Limits: values, their sentences, and what the environment changes."""

import io

import pytest
from PIL import Image

from svl_core.errors import InputError
from svl_core.lvlm.images import open_image
from svl_core.service.limits import PUBLIC, Limits, from_environment
from svl_core.service.stores import picker


def test_public_is_never_looser_than_home():
    home = Limits()
    for name, value in vars(PUBLIC).items():
        assert value <= getattr(home, name), name
    assert not (PUBLIC.any_model or PUBLIC.pickle_weights or PUBLIC.export or PUBLIC.details)
    assert len(PUBLIC.lines()) == len(vars(PUBLIC))


def test_environment_changes_one_limit():
    assert from_environment(True, {"SVL_LIMIT_NEW_TOKENS": "9"}).new_tokens == 9
    assert from_environment(True, {"SVL_LIMIT_ANY_MODEL": "1"}).any_model is True
    assert from_environment(False, {}) == Limits() and from_environment(True, {}) == PUBLIC
    for bad in (
        {"SVL_LIMIT_QUEUE": "many"},
        {"SVL_LIMIT_QUEUE": "0"},
        {"SVL_LIMIT_REQUEST_S": "nan"},
    ):
        with pytest.raises(InputError, match="expected"):
            from_environment(True, bad)


def test_strangers_export_nothing_and_sweep_little():
    with pytest.raises(InputError, match="export"):
        PUBLIC.check_export()
    Limits().check_export()
    from_environment(True, {"SVL_LIMIT_EXPORT": "1"}).check_export()
    PUBLIC.check("sweep_points", PUBLIC.sweep_points, "pruned models in the sweep")
    with pytest.raises(InputError, match="65 pruned models in the sweep; expected at most 64"):
        PUBLIC.check("sweep_points", PUBLIC.sweep_points + 1, "pruned models in the sweep")


@pytest.mark.parametrize(
    "name",
    [
        "someone/else",
        "/etc",
        "../assets/demo_lvlm",
        "http://127.0.0.1/x",
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
    ],
)
def test_strangers_choose_from_the_list_only(name):
    with pytest.raises(InputError, match="list") as caught:
        PUBLIC.check_model(name, "demo")
    assert name not in str(caught.value)
    Limits().check_model(name, "demo")
    assert name not in {value for _, value in picker("demo", PUBLIC)}


def test_pixels_are_counted_before_decoding():
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    with pytest.raises(InputError, match="pixels"):
        open_image(bomb.getvalue(), max_pixels=PUBLIC.image_pixels, max_bytes=PUBLIC.image_bytes)
