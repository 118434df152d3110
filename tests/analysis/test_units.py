"""Numbers of halves, and what of a model goes with some of them."""

from svl_core.analysis.units import Parts, half_in_words, half_number, parted


def test_halves_are_numbered_as_the_stream_meets_them():
    numbers = [half_number(layer, half) for layer in range(3) for half in ("attention", "mlp")]
    assert numbers == list(range(6))
    assert half_in_words(4) == "2 attention" and half_in_words(5) == "2 mlp"


def test_both_halves_of_a_layer_are_the_layer():
    assert parted([9, 4, 2, 3], "half") == Parts((1,), (2,), (4,))
    assert parted([], "half") == parted([], "layer") == Parts()
    assert parted([3, 1], "layer") == Parts((1, 3))
