"""The Allure page loses what would be fetched or would track, and keeps what makes it work (W3)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    """The tool as a module."""
    spec = importlib.util.spec_from_file_location("allure_page", ROOT / "tools" / "allure_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load()

APP = '<script   src="data:text/javascript;base64,bGV0IGE9MQ=="></script>'
DATA = "<script async>window.allureReportData = {};</script>"
TAG = '<script async src="https://www.googletagmanager.com/gtag/js?id=G-X"></script>'
INLINE = (
    "<script>\n window.dataLayer = window.dataLayer || [];\n function gtag(){dataLayer.push(arguments);}\n</script>"
)
HEAD = '<head>\n<title>Allure</title><link rel="icon" href="data:,"></head>'
PAGE = f"<html>{HEAD}<body>{APP}{TAG}{INLINE}{DATA}</body></html>"


@pytest.mark.requirement("W3")
def test_tracking_is_removed_and_the_app_stays() -> None:
    """As Allure 3.18.0 writes it: a tag manager script, an inline tag, the app and data as data: and inline scripts."""
    cleaned = TOOL.without_tracking(PAGE)
    assert TOOL.outside_of(PAGE) and TOOL.outside_of(cleaned) == []
    assert "googletagmanager" not in cleaned and "gtag" not in cleaned
    assert APP in cleaned and DATA in cleaned
    assert cleaned.index("Content-Security-Policy") < cleaned.index("<title>")


@pytest.mark.requirement("W3")
@pytest.mark.parametrize(
    "element",
    [
        '<script src="https://a.example/x.js"></script>',
        "<script src=//a.example/x.js></script>",
        '<img src="http://a.example/p.gif">',
        '<link rel="stylesheet" href="https://a.example/x.css"/>',
        '<iframe src="https://a.example/"></iframe>',
        "<script>gtag('js', 1)</script>",
    ],
)
def test_what_would_be_fetched_is_seen(element: str) -> None:
    """Each outside resource is named; a script of that kind is removed by the cleaning."""
    assert TOOL.outside_of(PAGE.replace("</body>", element + "</body>")) != TOOL.outside_of(PAGE)
    if element.startswith("<script"):
        assert TOOL.outside_of(TOOL.without_tracking(f"<head></head>{element}")) == []


def test_no_results_is_one_clear_line(tmp_path: Path) -> None:
    """An empty directory does not start Node."""
    with pytest.raises(SystemExit, match="no Allure results; run `make certify` first"):
        TOOL.allure_page(tmp_path)
