"""What a visitor sends is looked at before gradio acts on it.

What gradio does: it fetches a web address that stands in the place of a file's path, walks into
values however deep they are nested, and shows a component's own error, with a traceback in the log.
Why not: this server calls nobody on a visitor's word, and says one sentence for whatever comes.
How: `Blocks.preprocess_data` is wrapped, for one page.
Tested on gradio 6.31. Unnecessary once gradio has a switch against fetching, and a hook for input
errors.
"""

from __future__ import annotations

import inspect
from typing import Any

import gradio as gr
from gradio.components.api_component import Api

from svl_core.errors import SVLError
from svl_core.ui.errors import polite

DEPTH = 32  # of lists and objects in a request
ADDRESSES = ("http://", "https://")


def apply(page: gr.Blocks) -> None:
    """Has this page refuse web addresses in the place of files, and values too deep to be its own;
    what a component refuses becomes a sentence, and nothing of it is printed.
    """
    original = page.preprocess_data

    async def preprocess_data(block_fn, inputs, *rest, **more):
        try:
            check_harmless(inputs)
            _check_whole(block_fn, inputs)
            return await original(block_fn, inputs, *rest, **more)
        except (gr.Error, SVLError) as error:
            raise polite(error) from None
        except Exception:
            raise _refusal(
                "Found a value that this page does not take; expected what its controls offer;"
                " reload the page."
            ) from None

    page.preprocess_data = preprocess_data


def _check_whole(block_fn: Any, inputs: list) -> None:
    """Raises gr.Error where an endpoint is called with fewer values than it has arguments."""
    if len(inputs) >= len(block_fn.inputs) or not isinstance(block_fn.inputs[0], Api):
        return
    names = list(inspect.signature(block_fn.fn).parameters)[: len(block_fn.inputs)]
    raise _refusal(
        f"Found {len(inputs)} values; expected {len(names)}, in this order: {', '.join(names)}; add"
        " those that are missing, or call /gradio_api/call/v2/ with the names of those that you"
        " give."
    )


def check_harmless(value: Any, depth: int = DEPTH) -> None:
    """Raises gr.Error for a web address as a file's path, and for nesting deeper than `depth`."""
    if depth < 0:
        raise _refusal(
            "Found a value nested too deeply; expected what the page's controls send; reload the"
            " page."
        )
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and path.strip().lower().startswith(ADDRESSES):
            raise _refusal(
                "Found a web address; expected an image file; download the picture and upload it."
            )
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            check_harmless(item, depth - 1)


def _refusal(sentence: str) -> gr.Error:
    return gr.Error(sentence, print_exception=False)
