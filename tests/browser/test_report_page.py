"""The page in a real browser (W3): offline, narrow and wide, light and dark, by mouse and by keyboard.

Pictures are kept under the base directory of pytest's temporary files, for people to look at.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from certify.report.page import page as render

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]

CONTRAST = """() => {
  const lum = (c) => {
    const v = c.map((x) => { x /= 255; return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2];
  };
  const parse = (text) => {
    const m = text.match(/[0-9.]+/g).map(Number);
    return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3);
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; }
    return [255, 255, 255];
  };
  const bad = new Map();
  let seen = 0;
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    if (["SCRIPT", "STYLE"].includes(e.tagName) || e.closest(".vh")) continue;
    const a = lum(parse(getComputedStyle(e).color)), b = lum(behind(e));
    seen++;
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.set(`${e.tagName}.${e.className}`, ratio.toFixed(2));
  }
  return { seen, bad: [...bad] };
}"""


def load(path: Path) -> ModuleType:
    """A module beside other tests."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load(ROOT / "tools" / "report_picture.py")
PLANTED = load(ROOT / "tests" / "certify" / "planted_campaign.py")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of this machine, else Playwright's own; without one the tests fail and say what to install."""
    with sync_playwright() as playwright:
        made = TOOL.launch(playwright)
        yield made
        made.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the planted campaign: five subjects, a matrix, every verdict."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(PLANTED.planted_campaign()), encoding="utf-8")
    return path


class Watched:
    """A page with every request, console message and script error written down, and no network."""

    def __init__(self, browser: Browser, width: int, scheme: Any, scripts: bool = True) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts, offline=True
        )
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append("dialog " + dialog.message))

    def open(self, report: Path, anchor: str = "") -> Page:
        """Load the page."""
        self.page.goto(report.as_uri() + anchor)
        return self.page

    def close(self) -> None:
        """Nothing was asked for but the file, and nothing complained."""
        self.context.close()
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []
        assert len({url.partition("#")[0] for url in self.requests if url.startswith("file:")}) == 1
        assert self.complaints == []


@pytest.mark.requirement("W3")
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_is_quiet_fits_and_can_be_read(browser: Browser, report: Path, width: int, scheme: str) -> None:
    """No console message, no request, no sideways scroll of the page, text contrast at least 4.5 (WCAG AA)."""
    watched = Watched(browser, width, scheme)
    page = watched.open(report)
    page.screenshot(path=report.parent / f"page-{width}-{scheme}.png")
    page.locator("#matrix").screenshot(path=report.parent / f"matrix-{width}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    contrast = page.evaluate(CONTRAST)
    assert contrast["seen"] > 1000 and contrast["bad"] == []
    watched.close()


@pytest.mark.requirement("W3")
def test_two_clicks_from_a_failing_cell_to_its_repeat_command(browser: Browser, report: Path) -> None:
    """Click the FAIL of a family: its case is open and in sight; click Copy: the command is in the clipboard."""
    watched = Watched(browser, 1280, "light")
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = watched.open(report)
    page.locator("#grid tr", has_text="geometry").locator("a.v-FAIL").click()
    case = page.locator("details.case[open]", has_text="G.rope-theta[500k]").first
    copy = case.locator("button.copy")
    copy.wait_for(state="visible")
    page.wait_for_function(
        "(b) => { const r = b.getBoundingClientRect(); return r.top > 0 && r.bottom < innerHeight; }",
        arg=copy.element_handle(),
    )
    copy.click()
    command = PLANTED.COMMAND.format("mlx:raw", "G.rope-theta[500k]")
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.length > 0)")
    assert page.evaluate("navigator.clipboard.readText()") == command
    watched.close()


@pytest.mark.requirement("W3")
def test_a_failing_matrix_cell_leads_to_its_command(browser: Browser, report: Path) -> None:
    """As above, from the interop matrix, on a narrow screen, where the matrix scrolls in its own box."""
    watched = Watched(browser, 390, "dark")
    page = watched.open(report)
    cell = page.locator("#matrix td.bad a")
    assert cell.count() == 1 and "FAIL" in cell.inner_text()
    cell.click()
    line = page.locator("details.exchange[open] .cmd")  # one exchange is open: the one that was clicked
    line.locator("button.copy").click()
    assert "--subjects reference,torch" in line.inner_text()
    line.locator("button.done").wait_for()
    watched.close()


@pytest.mark.requirement("W3")
def test_filters_narrow_the_cases_and_a_link_undoes_them(browser: Browser, report: Path) -> None:
    """Subject, verdict and words together; nothing found is said; a link to a hidden case shows it."""
    watched = Watched(browser, 1280, "light")
    page = watched.open(report)
    total = page.locator("details[data-v]").count()
    page.select_option("select[name=v]", "UNSUPPORTED")
    assert page.locator("details[data-v]:visible").count() == 1
    assert page.locator(".filter output").inner_text() == f"1 of {total} cases"
    page.select_option("select[name=s]", "torch")
    assert page.locator(".empty").is_visible()
    page.locator("#grid a.v-FAIL").last.click()
    assert page.locator("details[data-v=FAIL][open]").is_visible()
    assert page.locator(".filter output").inner_text() == f"{total} cases"
    page.fill("input[name=q]", "rope-theta")
    assert page.locator("details[data-v]:visible").count() == 1
    watched.close()


@pytest.mark.requirement("W3")
def test_the_keyboard_and_a_deep_link_reach_a_case(browser: Browser, report: Path) -> None:
    """A link with a case's anchor opens it with the focus on it; Enter closes it, and the focus can be seen."""
    watched = Watched(browser, 1280, "dark")
    page = watched.open(report, "#case-mlx-raw-N-each-CRASH")
    page.wait_for_function("document.activeElement.closest('details')?.open")
    assert "N.each[CRASH]" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert not page.evaluate("document.activeElement.closest('details').open")
    watched.close()


@pytest.mark.requirement("W3")
def test_without_scripts_everything_can_be_read(browser: Browser, report: Path) -> None:
    """Cells lead to cases and commands by plain links; what needs a script is not shown."""
    watched = Watched(browser, 390, "light", scripts=False)
    page = watched.open(report)
    page.locator("#grid tr", has_text="geometry").locator("a.v-FAIL").click()
    case = page.locator("details.case[open]", has_text="G.rope-theta[500k]").first
    assert "zg-certify run" in case.locator(".cmd").inner_text()
    assert page.locator(".filter").is_hidden() and page.locator("button.copy").count() == 0
    watched.close()
