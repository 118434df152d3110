"""Every place that reaches into gradio, beyond what it documents.

One module a patch: what gradio does, why this page needs otherwise, how, and what would make the
patch unnecessary; `apply` puts it in force. `tests/ui/test_gradio_patches.py` checks the thing of
gradio that each relies on. This file imports no gradio: `stubs` must come before it.
"""

from __future__ import annotations

from dataclasses import dataclass

GRADIO = "6.31"
"""The minor version that all of them were tested on; pyproject.toml is bound to it."""


@dataclass(frozen=True)
class Patch:
    """name: of the module here. relies_on: what of gradio must stay as it is."""

    name: str
    relies_on: str


PATCHES = (
    Patch("environment", "variables GRADIO_ANALYTICS_* read by gradio.queueing and .analytics"),
    Patch("stubs", "inspect.getfile in gradio.component_meta, for classes of ComponentMeta"),
    Patch("undecoded_images", "gr.Image.preprocess(self, payload) with payload.path"),
    Patch("begun_uploads", "route_utils.GradioMultiPartParser, its max_files and callbacks"),
    Patch("inputs", "Blocks.preprocess_data(block_fn, inputs, ...) before any file is fetched"),
    Patch("skipped_outputs", "Blocks.postprocess_data(block_fn, predictions, state)"),
    Patch("plain_values", "preprocess_data and postprocess_data call the components' own methods"),
    Patch("unpolled", "Queue.push, .process_events; asyncio.sleep(self.sleep_when_free)"),
    Patch("unplotted", "utils.MatplotlibBackendMananger() around each step of an event"),
    Patch("sessions", "state_holder.SessionState, StateHolder.__getitem__ and .session_data"),
    Patch("upload_sets", "Blocks.upload_file_set within Blocks.temp_file_sets"),
    Patch("waiting_room", "Queue.push, .start, .clean_events and the events that a queue holds"),
    Patch("mcp_tools", "App.setup_mcp_server, mcp.GradioMCPServer, Queue.push and its messages"),
    Patch("front_page", "the answer to /: </head> and the og: tags of frontend/index.html"),
    Patch("update_marks", 'the mark "__type__" of updates'),
)
