"""What gradio keeps of each session and makes anew at each answer, cut down to what this page
needs.

gradio 6 describes every component of the page to every new session, for links that this page does
not offer: 7 MB and 60 ms a visitor, kept after the visitor has gone. It rebuilds each output that a
handler leaves as it is, at each token of an answer, and after each event it summarises the last
10,000.
"""

from __future__ import annotations

from copy import copy
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import route_utils, state_holder

SKIPPED = gr.skip()
_BY_GRADIO = state_holder.SessionState


class Session(_BY_GRADIO):
    """Values of `gr.State` and components that were updated; no description of the page."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))

    def __setitem__(self, key: int, value: Any) -> None:
        if getattr(self.blocks_config.blocks.get(key), "stateful", False):
            super().__setitem__(key, value)
            self.config_values.clear()
            return
        # a component made anew has a number of its own, and its next value would be kept under that
        # too
        value._id = key
        self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


def _session(blocks: gr.Blocks) -> _BY_GRADIO:
    return (Session if getattr(blocks, "lean", False) else _BY_GRADIO)(blocks)


def lighten(page: gr.Blocks) -> None:
    """Have this page's sessions be `Session`s, its skipped outputs cost nothing and its events
    leave no statistics.
    """
    page.lean = True
    state_holder.SessionState = route_utils.SessionState = _session
    page._queue.ANALYTICS_MAX_EVENTS, page._queue.ANAYLTICS_CACHE_FREQUENCY = 1, float("inf")
    inner = page.postprocess_data

    async def postprocess_data(block_fn, predictions, state, *rest, **more):
        outputs = block_fn.outputs
        if (
            len(outputs) < 2
            or not isinstance(predictions, list)
            or len(predictions) != len(outputs)
        ):
            return await inner(block_fn, predictions, state, *rest, **more)
        given = [
            k
            for k, value in enumerate(predictions)
            if not (isinstance(value, dict) and value == SKIPPED)
        ]
        out = [None if block.stateful else dict(SKIPPED) for block in outputs]
        if given:
            part = copy(block_fn)
            part.outputs = [outputs[k] for k in given]
            values = [predictions[k] for k in given]
            for k, value in zip(
                given,
                await inner(part, values if len(values) > 1 else values[0], state, *rest, **more),
                strict=True,
            ):
                out[k] = value
        return out

    page.postprocess_data = postprocess_data


def keep_open(page: gr.Blocks, session: str) -> bool:
    """Whether gradio holds such a session.

    Its page is open: gradio, which may take it for closed and drop its values an hour later, is
    told so.
    """
    held = getattr(page, "state_holder", None)
    found = held.session_data.get(session) if held is not None else None
    if found is not None:
        found.is_closed = False
    return found is not None


def forget(page: gr.Blocks, session: str) -> None:
    """Drop what gradio holds of a session that has ended; it would stay until many others have
    come.
    """
    holder = getattr(page, "state_holder", None)
    if holder is not None:
        with holder.lock:
            holder.session_data.pop(session, None)
            holder.time_last_used.pop(session, None)
