"""Values of controls, texts and markup are taken and sent on the spot.

What gradio does: it hands each input and output of an event to a thread of its own, one after the
other, looks through it for files, and makes a component anew for an update that changes none of its
settings.
Why not: an event of this page reads some forty controls and writes some thirty, whose `preprocess`
and `postprocess` only look at the value; the threads cost more than everything else in gradio.
How: `Blocks.preprocess_data` and `Blocks.postprocess_data` get only what is not plain; the rest is
answered here, by the components' own methods.
Tested on gradio 6.31. Unnecessary once gradio calls methods that do not block without a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import gradio as gr
from gradio.blocks import postprocess_update_dict
from gradio.utils import is_prop_update

PLAIN = (gr.Checkbox, gr.Code, gr.Dropdown, gr.HTML, gr.Radio, gr.Slider, gr.State, gr.Textbox)
"""Components whose values are no files, and whose methods neither wait nor compute."""
ABSENT = object()


def apply(page: gr.Blocks) -> None:
    """Has this page take and send plain values itself."""
    read, write = page.preprocess_data, page.postprocess_data

    async def preprocess_data(block_fn, inputs, state, *rest, **more):
        blocks = block_fn.inputs
        usual = block_fn.batch or block_fn.component_prop_inputs or not block_fn.preprocess
        if usual or state is None or len(blocks) != len(inputs):
            return await read(block_fn, inputs, state, *rest, **more)
        pairs = enumerate(zip(blocks, inputs, strict=True))
        left = [k for k, (block, value) in pairs if not _is_plain_input(block, value)]
        part = copy(block_fn)
        part.inputs = [blocks[k] for k in left]
        taken = await read(part, [inputs[k] for k in left], state, *rest, **more) if left else []
        others = dict(zip(left, taken, strict=True))
        return [
            others[k] if k in others else _taken(blocks[k], inputs[k], state)
            for k in range(len(blocks))
        ]

    async def postprocess_data(block_fn, predictions, state, *rest, **more):
        blocks = block_fn.outputs
        listed = isinstance(predictions, list) and len(predictions) == len(blocks) > 1
        usual = block_fn.batch or block_fn.is_validator_function or not block_fn.postprocess
        if usual or state is None or not listed:
            return await write(block_fn, predictions, state, *rest, **more)
        pairs = enumerate(zip(blocks, predictions, strict=True))
        left = [k for k, (block, value) in pairs if not _is_plain_output(block, value, state)]
        part = copy(block_fn)
        part.outputs = [blocks[k] for k in left]
        values = [predictions[k] for k in left]
        sent = []
        if left:
            sent = await write(part, values if len(values) > 1 else values[0], state, *rest, **more)
        others = dict(zip(left, sent, strict=True))
        return [
            others[k] if k in others else _sent(blocks[k], predictions[k], state)
            for k in range(len(blocks))
        ]

    page.preprocess_data, page.postprocess_data = preprocess_data, postprocess_data


# ------------------------------------------------------------------------------- inputs
def _is_plain_input(block: Any, value: Any) -> bool:
    return isinstance(block, PLAIN) and not _holds_file(value)


def _taken(block: Any, value: Any, state: Any) -> Any:
    """What the handler is given. Raises what the component raises."""
    here = state[block._id]
    return here if block.stateful else here.preprocess(value)


def _holds_file(value: Any) -> bool:
    """Whether gradio may find a file in a value."""
    if isinstance(value, Mapping):
        return "path" in value or any(map(_holds_file, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_file, value))


# ------------------------------------------------------------------------------- outputs
def _is_plain_output(block: Any, value: Any, state: Any) -> bool:
    if not isinstance(block, PLAIN) or isinstance(value, gr.blocks.Block):
        return False
    return not is_prop_update(value) or not block.stateful and _changes_nothing(block, value, state)


def _changes_nothing(block: Any, update: Mapping, state: Any) -> bool:
    """Whether the session's component has all settings of an update already."""
    given = state[block._id].constructor_args
    settings = {k: v for k, v in update.items() if k not in ("value", "__type__")}
    return all(v is None or given.get(k, ABSENT) == v for k, v in settings.items())


def _sent(block: Any, value: Any, state: Any) -> Any:
    """What the page is sent."""
    if block.stateful:
        state[block._id] = value
        return None
    here = state[block._id]
    if is_prop_update(value):
        update = {k: v for k, v in value.items() if v is not None or k == "value"}
        return postprocess_update_dict(here, update)
    return here.postprocess(value)
