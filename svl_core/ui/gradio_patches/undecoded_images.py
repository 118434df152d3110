"""An uploaded image reaches the handler as the file that it is.

What gradio does: `gr.Image(type="filepath")` decodes every upload and writes it anew, with mute
errors for files that it cannot read.
Why not: decoding, with its limits and sentences, is `svl_core.lvlm.images.open_image`'s, for the
page and the command alike.
How: `gr.Image.preprocess` is replaced on the class, because gradio makes a component anew for each
session whose settings an event changed; images with `image_mode=None` alone are concerned.
Tested on gradio 6.31. Unnecessary once `type="filepath", image_mode=None` hands over the upload.
"""

from __future__ import annotations

import gradio as gr


def apply() -> None:
    """Has `gr.Image(type="filepath", image_mode=None)` hand over the uploaded file as it is."""
    original = gr.Image.preprocess
    if original.__module__ == __name__:
        return

    def preprocess(self, payload):
        given = payload is not None and payload.path is not None
        as_file = self.type == "filepath" and self.image_mode is None
        return payload.path if given and as_file else original(self, payload)

    gr.Image.preprocess = preprocess
