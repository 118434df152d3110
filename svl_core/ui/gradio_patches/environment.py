"""gradio's own settings that this page needs, as environment variables: no patch, a supported way.

What gradio does: it reports use to its makers, and after each event summarises the last 10,000.
Why not: nothing leaves this server unasked, and the summary takes longer with every event.
How: environment variables that gradio reads, each only where the operator has not set it.
Tested on gradio 6.31.
"""

from __future__ import annotations

import os

VARIABLES = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),  # events between two summaries
}


def apply() -> None:
    """Sets what is not set yet; before gradio's first `Blocks` is made."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
