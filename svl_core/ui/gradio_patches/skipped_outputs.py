"""Outputs that a handler leaves as they are cost nothing.

What gradio does: it makes each output's component anew for every value that an event yields, also
where the value is `gr.skip()`.
Why not: an answer that grows yields at each token, with some thirty outputs of which four change.
How: `Blocks.postprocess_data` gets only the outputs that change; a skipped one is answered here.
Tested on gradio 6.31. Unnecessary once `postprocess_data` passes over `gr.skip()` early.
"""

from __future__ import annotations

from copy import copy

import gradio as gr

SKIPPED = gr.skip()


def _is_skipped(value: object) -> bool:
    return isinstance(value, dict) and value == SKIPPED


def apply(page: gr.Blocks) -> None:
    """Has this page pass over skipped outputs."""
    original = page.postprocess_data

    async def postprocess_data(block_fn, predictions, state, *rest, **more):
        outputs = block_fn.outputs
        listed = isinstance(predictions, list) and len(predictions) == len(outputs)
        if len(outputs) < 2 or not listed:
            return await original(block_fn, predictions, state, *rest, **more)
        results = [None if block.stateful else dict(SKIPPED) for block in outputs]
        changed = [k for k, value in enumerate(predictions) if not _is_skipped(value)]
        if not changed:
            return results
        part = copy(block_fn)
        part.outputs = [outputs[k] for k in changed]
        values = [predictions[k] for k in changed]
        processed = await original(
            part, values if len(values) > 1 else values[0], state, *rest, **more
        )
        for k, value in zip(changed, processed, strict=True):
            results[k] = value
        return results

    page.postprocess_data = postprocess_data
