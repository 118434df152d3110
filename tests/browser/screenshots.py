"""Take the page's pictures: `python tests/browser/screenshots.py FOLDER [--model NAME]`.

Writes light and dark, 1440 and 390 pixels wide: the first screen, the whole page and every step.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

STEPS = {"ask": "#image", "look": "#overlay", "layers": "#plot-redundancy", "gap": "#plot-gap", "answers": "#metrics"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    from playwright.sync_api import sync_playwright

    from svl_core.ui import build, launch_options

    blocks = build(options.model)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        for width, height in ((1440, 900), (390, 844)):
            for scheme in ("light", "dark"):
                tab = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce").new_page()
                tab.goto(url)
                tab.locator("#metrics .facts").wait_for(timeout=180_000)
                tab.wait_for_timeout(1500)
                name = f"{scheme}-{width}"
                tab.screenshot(path=options.folder / f"{name}-first.png")
                for step, anchor in STEPS.items():
                    tab.locator(anchor).scroll_into_view_if_needed()
                    tab.locator(anchor).evaluate("e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 190)")
                    tab.wait_for_timeout(400)
                    tab.screenshot(path=options.folder / f"{name}-{step}.png")
                tab.evaluate("window.scrollTo(0, 0)")
                tab.screenshot(path=options.folder / f"{name}-page.png", full_page=True)
                tab.context.close()
                print(options.folder / f"{name}-*.png")
        chromium.close()
    blocks.close()


if __name__ == "__main__":
    main()
