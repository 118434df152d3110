"""The public page on the tiny model, served in this process."""

import io
from dataclasses import replace

import pytest


@pytest.fixture(scope="session")
def public_site(tiny, tmp_path_factory):
    """(address, gr.Blocks) with the public limits; its uploads live in a folder of its own."""
    import os

    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("uploads"))
    from svl_core.service.limits import PUBLIC
    from svl_core.ui import build, launch_options

    limits = replace(PUBLIC, new_tokens=64)
    page = build(tiny, limits=limits)
    _, url, _ = page.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options(limits)
    )
    yield url, page
    page.close()
    del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture
def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
