"""Take the page's pictures: `python tests/browser/screenshots.py FOLDER [--model NAME] [--only STEP
...] [--readme]`.

Writes every step of the page, light and dark, 1440 and 390 pixels wide, each as its visitor comes
to see it: folds open, a small sweep run, two variants kept, the lesson at its third step, large
type. --readme also makes the README's picture anew.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from playwright.sync_api import Page, sync_playwright

README = Path(__file__).resolve().parents[2] / "assets" / "readme" / "page.png"
HEAD = 24  # pixels left free above what a picture shows


def rest(page: Page) -> None:
    """Until nothing has run for a second."""
    calm = 0
    for _ in range(3000):
        calm = calm + 1 if page.locator("#status .pill").count() == 0 else 0
        if calm >= 10:
            return
        page.wait_for_timeout(100)
    raise SystemExit(
        "Found a page that never comes to rest; expected an end of its work; look at the server's"
        " log."
    )


def unfold(page: Page, fold: str) -> None:
    page.locator(f"#{fold} > button:not(.open)").click()
    rest(page)


def keep_two(page: Page) -> None:
    page.locator("#keep").click()
    page.locator("#variants article").wait_for()
    page.locator("#strip button.kept").nth(3).click()
    rest(page)
    page.locator("#keep").click()
    page.locator("#variants article").nth(1).wait_for()


def sweep(page: Page) -> None:
    unfold(page, "sweep")
    page.locator("#sweep-criteria label", has_text="Random").locator("input").click()
    for name, value in (("sweep-most", "5"), ("sweep-size", "4")):
        page.locator(f"#{name} input[type=number]").fill(value)
        page.locator(f"#{name} input[type=number]").press("Tab")
    page.locator("#sweep-run").click()
    page.wait_for_function(
        "document.getElementById('sweep-status').innerText.includes('models measured')",
        timeout=600_000,
    )


def ablate(page: Page) -> None:
    unfold(page, "ablation")
    page.locator("#plot-ablation .main-svg").first.wait_for()


def lecture(page: Page) -> None:
    page.locator("#lesson .svl-start").click()
    page.locator(".svl-panel .svl-drawing").wait_for()
    rest(page)
    for step in (2, 3):
        page.locator(".svl-panel .svl-next").click()
        page.locator(".svl-panel small", has_text=f"step {step}").wait_for()
        rest(page)
    page.locator(".svl-options button").first.click()
    page.locator(".svl-tail .js-plotly-plot").wait_for()
    rest(page)


def end_lecture(page: Page) -> None:
    page.locator(".svl-panel .svl-close").click()
    rest(page)
    page.locator("#type button").click()
    page.evaluate("scrollTo(0, 0)")


def curve(page: Page) -> None:
    page.locator("#overlay img").click(position={"x": 40, "y": 40})
    page.locator("#token-curve .main-svg").first.wait_for()


# name: (what is at the top of the picture, what to do first); None: where the page is
STEPS = {
    "first": (None, None),
    "ask": ("#image", None),
    "compose": ("#compose", lambda page: unfold(page, "compose")),
    "look": ("#overlay", curve),
    "layers": ("#plot-redundancy", None),
    "choose": ("#choose", lambda page: unfold(page, "choose")),
    "gap": ("#plot-gap", None),
    "plan": ("#dock", None),
    "presets": ("#preset-section", lambda page: unfold(page, "method")),
    "answers": ("#answer-full", None),
    "metrics": ("#metrics", None),
    "difference": ("#difference-section", None),
    "variants": ("#variants-section", keep_two),
    "calibration": ("#calibration-section", lambda page: unfold(page, "calibration-section")),
    "stability": ("#stability", lambda page: unfold(page, "stability")),
    "sweep": ("#sweep", sweep),
    "sweep-figures": ("#sweep-go", None),
    "ablation": ("#ablation", ablate),
    "share": ("#link", lambda page: unfold(page, "code")),
    "glossary": ("#glossary", lambda page: unfold(page, "glossary")),
    "lesson": (None, lecture),
    "large": (None, end_lecture),
    "large-plan": ("#dock", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[f"{scheme}-{width}" for scheme in ("light", "dark") for width in (1440, 390)],
        help="some of the four looks",
    )
    parser.add_argument(
        "--readme", action="store_true", help=f"also write {README.relative_to(README.parents[2])}"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    from svl_core.ui import build, launch_options

    blocks = build(options.model)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        for width, height in ((1440, 900), (390, 844)):
            for scheme in ("light", "dark"):
                look = f"{scheme}-{width}"
                if options.only and look not in options.only:
                    continue
                page = chromium.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    reduced_motion="reduce",
                ).new_page()
                page.set_default_timeout(180_000)
                page.goto(url)
                page.locator("#metrics .facts").wait_for()
                rest(page)
                for number, (step, (anchor, before)) in enumerate(STEPS.items()):
                    if before:
                        before(page)
                    if anchor:
                        page.locator(anchor).first.evaluate(
                            "(e, above) => scrollTo(0, e.getBoundingClientRect().top + scrollY -"
                            " (innerWidth > 900 && !e.closest('#dock') ?"
                            " document.getElementById('dock').offsetHeight : 0) - above)",
                            HEAD,
                        )
                    page.wait_for_timeout(700)
                    page.screenshot(path=options.folder / f"{look}-{number:02}-{step}.png")
                    if step == "first" and options.readme and look == "light-1440":
                        page.screenshot(path=README)
                page.evaluate(
                    "document.getElementById('dock').style.position = 'static'; scrollTo(0, 0)"
                )  # a whole page has no edge to stick to
                page.screenshot(path=options.folder / f"{look}-page.png", full_page=True)
                page.context.close()
                print(options.folder / f"{look}-*.png", flush=True)
        chromium.close()
    blocks.close()


if __name__ == "__main__":
    main()
