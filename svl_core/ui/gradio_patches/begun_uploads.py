"""An upload has no more files than the limits allow, and one that fails leaves nothing.

What gradio does: it takes a thousand files with a request, and removes the files that it began only
where the request itself is malformed.
Why not: a visitor whose connection drops, or who meets a full disk, leaves half a picture; a
thousand files a request keep the server busy.
How: `route_utils.GradioMultiPartParser` is replaced by one that tells the request's
`svl_core.service.ledger.Bringer` which files it begins; requests without one are not concerned.
Tested on gradio 6.31. Unnecessary once gradio bounds the files of a request, and removes them when
it fails.
"""

from __future__ import annotations

from gradio import route_utils

from svl_core.service.ledger import BRINGER

_GRADIO_PARSER = route_utils.GradioMultiPartParser


class TellingParser(_GRADIO_PARSER):
    """Tells the files that it begins to who brings them."""

    def __init__(self, *values, **named) -> None:
        super().__init__(*values, **named)
        bringer = BRINGER.get()
        if bringer is not None:
            self.max_files = self.max_fields = bringer.most_files

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        bringer = BRINGER.get()
        if bringer is not None and self._current_part.file is not None:
            bringer.begun.append(self._files_to_close_on_error[-1].name)


def apply() -> None:
    """Has uploads tell which files they begin."""
    route_utils.GradioMultiPartParser = TellingParser
