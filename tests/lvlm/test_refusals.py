"""Pictures that a processor takes and its model does not: one sentence, wherever a pass begins."""

import builders
import pytest
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.refusals import picture_read
from svl_core.lvlm.vision import forward, see


def test_a_picture_that_the_first_pass_refuses():
    """It is smaller than a merged patch of 16 pixels."""
    lvlm = builders.build("mistral3")
    width, height = 8, 8
    told = "that the processor of .* takes and the model itself does not .* try a larger one"
    with pytest.raises(InputError, match=told) as caught:
        sample = lvlm.encode(picture(width, height), "a cat")
        see(lvlm, sample)
    assert f"{width} x {height} pixels" in str(caught.value)
    for read in (
        lambda: svl.trace(lvlm, [sample]),
        lambda: Decoding(lvlm, sample.inputs),
        lambda: forward(lvlm, sample.inputs, None),
        lambda: svl.answer(lvlm, sample, max_new_tokens=1),
    ):
        with pytest.raises(InputError, match=told):
            read()


def test_other_faults_stay_what_they_are(tiny, tiny_sample, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("A fault of the decoder.")

    monkeypatch.setattr(tiny.layers[1], "forward", broken)
    with pytest.raises(ValueError, match="fault of the decoder") as caught:
        svl.trace(tiny, [tiny_sample])
    assert not isinstance(caught.value, InputError)


def test_what_is_no_fault_of_a_picture(tiny):
    class OutOfMemoryError(RuntimeError):
        pass

    pixels = {"pixel_values": None}
    with pytest.raises(OutOfMemoryError), picture_read(tiny, pixels):
        raise OutOfMemoryError("There is no room.")
    with pytest.raises(RuntimeError, match="^No shape fits$"), picture_read(tiny, {"input_ids": 1}):
        raise RuntimeError("No shape fits")
    with pytest.raises(InputError, match="^A sentence.$"), picture_read(tiny, pixels):
        raise InputError("A sentence.")
