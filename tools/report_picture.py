"""A picture of a report page, as a browser without a network shows it: `report_picture.py PAGE.html PICTURE.png`.

The sample in reports/sample is made so. The browser is Chromium or Chrome of this machine, else Playwright's own.
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run")


def launch(playwright: Playwright) -> Browser:
    """A headless browser; SystemExit with what to install when there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    root = getattr(os, "geteuid", lambda: 1)() == 0
    try:
        return playwright.chromium.launch(executable_path=found, args=[*FLAGS, *(["--no-sandbox"] if root else [])])
    except Error as error:
        text = "no browser: `apt-get install chromium` or `python -m playwright install chromium`"
        raise SystemExit(f"{text}\n{error}") from error


def picture(page: Path, target: Path, width: int, height: int, scheme: str) -> None:
    """Write the first `height` pixels of the page."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            offline=True,
        )
        shown = context.new_page()
        shown.goto(page.resolve().as_uri())
        target.parent.mkdir(parents=True, exist_ok=True)
        shown.screenshot(path=target)
        browser.close()


def main() -> None:
    """Parse, draw, say how large it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    args = parser.parse_args()
    picture(args.page, args.picture, args.width, args.height, args.scheme)
    print(f"{args.picture}: {args.picture.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
