"""ZeroGPU: how long a GPU is asked for. The work of a lent one is tested in `tests/space`."""

from svl_core.service.zero_gpu import Work, seconds


def test_time_asked_for_grows_with_the_request():
    small = seconds(0.5, Work(1000, 6, 128))
    assert 10 <= seconds(0.01, Work(50, 1)) <= small < seconds(14, Work(1000, 6, 128)) <= 120
    for more in (Work(4000, 60, 128), Work(1000, 12, 128), Work(1000, 6, 1024)):
        assert seconds(0.5, more) > small
