"""Events pass without a word to matplotlib.

What gradio does: at every step of every event it imports matplotlib, where it is installed switches
its backend to and fro, and where it is not searches all folders for it twice.
Why not: the page draws without matplotlib, and the search costs as much as a small event.
How: `gradio.utils.MatplotlibBackendMananger` is replaced by a context that does nothing.
Tested on gradio 6.31. Unnecessary once gradio asks for matplotlib only where it draws with it.
"""

from __future__ import annotations

from contextlib import nullcontext

from gradio import utils


def apply() -> None:
    """Has gradio leave matplotlib alone, in this process."""
    utils.MatplotlibBackendMananger = nullcontext
