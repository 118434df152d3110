"""Errors as gradio shows them: one harmless sentence."""

from __future__ import annotations

import html

import gradio as gr

from svl_core.service.errors import sentence_for

SHOWN_S = 12  # seconds that an error stays on the page


def polite(error: BaseException, details: bool = True) -> gr.Error:
    """The sentence that a visitor sees; gradio renders it as markup, so it is escaped here.

    details: whether an unexpected error's own words are shown.
    """
    if isinstance(error, gr.Error):
        error.print_exception = False
        error.message = _escaped(error.message)
        return error
    sentence = sentence_for(error, details)
    return gr.Error(_escaped(sentence), duration=SHOWN_S, print_exception=False)


def _escaped(text: str) -> str:
    return html.escape(html.unescape(str(text)), quote=False)
