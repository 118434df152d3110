"""Log lines tell what happened and never what a visitor wrote."""

import io
import json
import logging

import pytest

from svl_core.service.logs import JsonLines, Scrubbed, structured


def test_log_lines_never_quote():
    secret = "the visitor's own words"
    try:
        raise ValueError(secret)
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    own = logging.LogRecord(
        "svl_core.service.errors", logging.ERROR, __file__, 1, "unexpected error", (), info
    )
    line = json.loads(JsonLines().format(own))
    assert (
        line["event"] == "unexpected error"
        and line["error"] == "ValueError"
        and secret not in json.dumps(line)
    )
    foreign = logging.LogRecord(
        "uvicorn.error", logging.ERROR, __file__, 7, "failed on %s", (secret,), info
    )
    assert secret not in JsonLines().format(foreign)
    Scrubbed().filter(foreign)
    assert secret not in logging.Formatter().format(foreign)


@pytest.fixture
def untouched():
    """Loggers and handlers as they were, afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("svl_core")
    others = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    for logger in others:
        logger.filters[:] = [f for f in logger.filters if not isinstance(f, Scrubbed)]


def test_structured_logs_are_lines_of_json(untouched):
    stream = io.StringIO()
    structured(stream)
    logging.getLogger("svl_core.service").info("started", extra={"fields": {"port": 7860}})
    logging.getLogger("elsewhere").warning("said %s", "a visitor's words")
    logging.getLogger("elsewhere").info("nothing")
    ours, foreign = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["port"]) == ("started", "info", 7860)
    assert foreign["event"].startswith("elsewhere:") and "words" not in json.dumps(foreign)
    assert ours["time"].endswith("Z")
