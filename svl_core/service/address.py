"""Where the page is to listen: tried before anything is loaded, so that a wrong one is told in a
sentence.
"""

from __future__ import annotations

import errno
import socket

from svl_core.errors import InputError

PORTS = range(1, 65536)
OWN = "127.0.0.1"


def checked_port(host: str | None, port: str | int | None) -> int | None:
    """The port as a number, once it is certain that this machine can listen there.

    host: an address or name of this machine; None for the one that only this machine reaches.
    port: None or "" for the first free one.

    Raises InputError for what is no port, a foreign host, and a port that is taken or reserved.
    """
    number = _number(port) if port not in (None, "") else None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or OWN, number or 0, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except (OSError, UnicodeError) as error:
        raise _refusal(host, number, error) from None
    return number


def _number(port: str | int) -> int:
    text = str(port).strip()
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) not in PORTS:
        raise InputError(
            f"Found the port {text[:40]!r}; expected a whole number from {PORTS[0]} to"
            f" {PORTS[-1]}; change --port or SVL_PORT."
        )
    return int(text)


def _refusal(host: str | None, port: int | None, error: Exception) -> InputError:
    """What is wrong with an address that cannot be listened on."""
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return InputError(
            f"Found port {port} in use; expected a free one; give another with --port, or none for"
            " the first free one from 7860."
        )
    if code in (errno.EACCES, errno.EPERM):
        return InputError(
            f"Found port {port}, which only the system's administrator may open; expected one from"
            " 1024 on; change --port."
        )
    return InputError(
        f"Found the host {str(host)[:80]!r}, which is no address of this machine; expected"
        f" {OWN}, or 0.0.0.0 for all that reach it; change --host or SVL_HOST."
    )
