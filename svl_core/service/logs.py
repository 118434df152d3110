"""Log lines as JSON that tell the operator what happened and never what a visitor wrote, showed or
was answered.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback

FRAMES = 6  # of an error's traceback, the innermost ones


def where(error: BaseException) -> dict:
    """Type and places of an error, without its message, which may quote a visitor."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return {"error": type(error).__name__, "at": [_place(frame) for frame in frames]}


def _place(frame: traceback.FrameSummary) -> str:
    file = frame.filename.rsplit("site-packages/")[-1]
    return f"{file}:{frame.lineno} {frame.name}"


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, event, and the fields given as `extra={"fields":
    {...}}`.

    Only our own messages are shown: they are constant. Of other libraries' records, the place in
    the code stands instead.
    """

    def format(self, record: logging.LogRecord) -> str:
        is_ours = record.name.startswith("svl_core")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.msg if is_ours else f"{record.name}:{record.lineno}",
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= where(record.exc_info[1])
        return json.dumps(line)


class Scrubbed(logging.Filter):
    """For libraries that bring their own handlers: the record without its arguments and its error's
    words.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        record.msg = f"{record.name}:{record.lineno} {where(error) if error else ''}"
        record.args = ()
        record.exc_info = record.exc_text = None
        return True


def structured(stream=None) -> None:
    """From now on the process logs as `JsonLines`, to standard error unless told otherwise."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("svl_core").setLevel(logging.INFO)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(Scrubbed())
