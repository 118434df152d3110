"""The page, served in this process, in a headless Chromium.

The bundled model where its weights are, else the tiny one.
"""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PATIENCE = 120_000  # ms: the machine may be busy
BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "demo_lvlm"


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"Chromium is missing at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site(request, browser):
    """(address, gr.Blocks) of a running page."""
    from svl_core.ui import build, launch_options

    bundled = (BUNDLED / "model.safetensors").exists()
    blocks = build("demo") if bundled else build(request.getfixturevalue("tiny"), knows_scenes=True)
    _, url, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options()
    )
    yield url, blocks
    blocks.close()


@pytest.fixture
def page(browser, site):
    """The page at 1440 x 900, analysed; afterwards nothing foreign was asked for and no script
    failed.
    """
    yield from opened(browser, site[0], 1440, 900)


@pytest.fixture
def phone(browser, site):
    """The page at 390 x 844 with touch."""
    yield from opened(browser, site[0], 390, 844, has_touch=True, is_mobile=True)


@pytest.fixture
def second(browser, site):
    """Another visitor's page."""
    yield from opened(browser, site[0], 1000, 800)


def opened(browser, url, width, height, **options):
    context = browser.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce", **options
    )
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    foreign, broken = [], []
    tab.on(
        "request",
        lambda r: None if r.url.startswith((url, "data:", "blob:")) else foreign.append(r.url),
    )
    tab.on("pageerror", lambda e: broken.append(str(e)))
    tab.goto(url)
    tab.locator("#metrics .facts").wait_for()
    yield tab
    context.close()
    assert not foreign, f"requests left the page's origin: {foreign}"
    assert not broken, f"scripts failed: {broken}"
