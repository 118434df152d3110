"""Where the page listens is tried before the model loads, and refused in a sentence."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from svl_core.errors import InputError
from svl_core.service.address import checked_port

APP = Path(__file__).parents[2] / "app.py"


@pytest.fixture
def taken():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_what_can_be_listened_on_is_given_back(taken):
    assert checked_port(None, None) is None and checked_port("127.0.0.1", "") is None
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
    assert checked_port(None, f" {free} ") == free and checked_port("0.0.0.0", free) == free


@pytest.mark.parametrize("port", ["abc", "99999", "0", "-1", "7.5", "1" * 5000, "\u0663"])
def test_what_is_no_port(port):
    with pytest.raises(InputError, match="^Found the port '.{1,40}'; expected a whole number") as e:
        checked_port(None, port)
    assert len(str(e.value)) < 200


def test_what_cannot_be_listened_on(taken):
    with pytest.raises(InputError, match=f"port {taken} in use"):
        checked_port(None, taken)
    for host in ("192.0.2.1", "no.such.host.invalid", "a" * 300):
        with pytest.raises(InputError, match="no address of this machine"):
            checked_port(host, None)


def test_the_page_says_it_in_one_line(taken):
    told = subprocess.run(
        [sys.executable, str(APP), "--port", str(taken)], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 2 and told.stdout == ""
    assert told.stderr.count("\n") == 1 and f"port {taken} in use" in told.stderr
