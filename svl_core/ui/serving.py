"""How the page is served: its sessions, its uploads, and what gradio is told at launch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version

import gradio as gr
from packaging.requirements import Requirement

from svl_core.service import health
from svl_core.service.limits import HOME, Limits
from svl_core.service.visits import Visits
from svl_core.service.waiting import Listeners
from svl_core.ui import parts, preview, texts, views
from svl_core.ui.gradio_patches import (
    front_page,
    inputs,
    plain_values,
    sessions,
    skipped_outputs,
    unpolled,
    upload_sets,
    waiting_room,
)
from svl_core.ui.theme import theme
from svl_core.ui.wiring import Page, session_of, stop_all


def serve(page: Page) -> None:
    """Sets up what a page that is laid out needs: sessions that come and go, uploads, the queue."""
    blocks, workspace = page.blocks, page.workspace
    limits, uploads = workspace.limits, workspace.uploads

    def end(session: str) -> None:
        workspace.leave(session)
        sessions.forget(blocks, session)

    visits = Visits(
        end,
        partial(sessions.keep_open, blocks),
        limits.away_s,
        limits.sessions,
        limits.address_sessions,
    )

    def tidy(seconds: float, busy: Collection[str]) -> None:
        silent = {*sessions.idle(blocks, seconds), *uploads.idle(seconds)}
        for session in silent - set(busy):
            if not visits.is_open(session):
                end(session)
        uploads.recount()

    def dropped(request: gr.Request) -> None:
        stop_all(page, request)
        visits.dropped(session_of(request))

    blocks.unload(dropped)
    listeners = Listeners()
    blocks.workspace, blocks.visits, blocks.listeners = workspace, visits, listeners
    blocks.opening = page.opening
    uploads.brought = partial(upload_sets.is_upload, blocks, page["image"])
    uploads.deleted = upload_sets.apply(blocks, uploads.arrived)
    plain_values.apply(blocks)
    inputs.apply(blocks)
    blocks.queue(max_size=None, default_concurrency_limit=8)  # `waiting_room` bounds it
    waiting_room.apply(blocks, limits, listeners, tidy)
    unpolled.apply(blocks)
    sessions.apply(blocks, visits.is_open)
    skipped_outputs.apply(blocks)


def launch_options(limits: Limits = HOME) -> dict:
    """What `launch` needs for this page: its look, `/health`, the endpoints as MCP tools where that
    extra is installed, and nothing fetched from elsewhere.
    """
    options = health.app_options(limits, _served)
    front_page.apply(options, _head, _card, preview.picture)
    return {
        "theme": theme(),
        "css": parts.css(),
        "footer_links": ["api"],
        "mcp_server": _speaks_mcp(),
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": limits.image_bytes,
        "state_session_capacity": 200,
        "show_error": limits.details,
        "app_kwargs": options,
        "_frontend": False,  # else gradio gives up where the page answers itself too slowly
    }


def _head(app) -> str:
    """What the document's head holds: the first screen, where one was prepared."""
    opening = app.blocks.opening
    title = views.header(texts.TITLE, texts.LEDE)
    return parts.head(health.STARTED, opening.for_browser(title) if opening else None)


def _card(app, address: str) -> str:
    """The preview of a link to an app's page. address: that it was asked for by, "" where that is
    not known.
    """
    base, _, query = address.partition("?")
    shown = preview.preview_of(query) if app.blocks.opening else preview.PLAIN
    image = f"{base}{front_page.PREVIEWS[1:]}{shown.picture}" if base and shown.picture else None
    return front_page.card_tags(shown.title, shown.description, image, address, shown.alt)


def until_told(page: gr.Blocks) -> None:
    """Waits until the process is told to end (SIGTERM, Ctrl-C), then ends what runs, tells whoever
    listens, and stops serving. Call from the main thread.
    """
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        told.wait()
    except KeyboardInterrupt:
        pass
    page.workspace.jobs.cancel_all()
    page.close(verbose=False)


def _served(app) -> health.Served:
    """What the gate must know of the page that an app serves."""
    blocks = app.blocks
    return health.Served(blocks.workspace, blocks.visits, blocks.listeners)


def _speaks_mcp() -> bool:
    """Whether gradio's extra `mcp` is installed, in a version that this gradio works with."""
    wanted = [
        needed for needed in map(Requirement, requires("gradio") or ()) if needed.name == "mcp"
    ]
    try:
        return bool(wanted) and wanted[0].specifier.contains(version("mcp"))
    except PackageNotFoundError:
        return False
