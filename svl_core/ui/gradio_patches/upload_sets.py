"""The end of each upload is told, and a deleted upload's name is forgotten.

What gradio does: it collects the paths of all uploads in a set of the page, for good, and tells
nobody.
Why not: a file must stay while its visitor waits for a turn, and go when the last visitor who
brought it leaves (`svl_core.service.uploads.Holdings`); names must not pile up.
How: `Blocks.upload_file_set`, which is also in `Blocks.temp_file_sets`, is replaced by a set that
tells of its updates.
Tested on gradio 6.31. Unnecessary once gradio has an event for uploads that ended.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr


class ReportingSet(set):
    """The paths that a page knows as uploaded.

    arrived: called with each path whose upload has ended.
    """

    def __init__(self, arrived: Callable[[str], None]) -> None:
        super().__init__()
        self._arrived = arrived

    def update(self, *paths) -> None:
        for path in set().union(*paths):
            self.add(path)
            self._arrived(path)


def apply(page: gr.Blocks, arrived: Callable[[str], None]) -> Callable[[str], None]:
    """Has `arrived` be called with each upload that has ended; returns what forgets a path."""
    page.temp_file_sets.remove(page.upload_file_set)
    page.upload_file_set = ReportingSet(arrived)
    page.temp_file_sets.append(page.upload_file_set)
    return page.upload_file_set.discard


def is_upload(page: gr.Blocks, image: gr.Image, path: str) -> bool:
    """Whether a file is a visitor's upload, and not the picture that `image` opens with."""
    return path in page.upload_file_set and path not in image.keep_in_cache
