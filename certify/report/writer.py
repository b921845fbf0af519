"""Write every report of a campaign under one directory.

DIR/report.html, DIR/allure-results/, DIR/<subject>/junit.xml. Certificates, records and summaries are `certify.run`'s.
"""

import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from certify.report.allure import write_allure
from certify.report.campaign import Campaign, campaign_of
from certify.report.junit import junit
from certify.report.page import page
from certify.results import writing
from certify.run import RunResult
from certify.verdict import MatrixCell

__all__ = ["write", "write_campaign"]


def write(out: Path, results: Sequence[RunResult], cells: Sequence[MatrixCell]) -> Path:
    """Reports of a run that has just ended; returns the path of the page."""
    return write_campaign(campaign_of(results, cells, datetime.date.today()), out)


def write_campaign(campaign: Campaign, directory: Path) -> Path:
    """Reports of a campaign; returns the path of the page. Error `zg/certify/no-space` on a full disk."""
    target, text = directory / "report.html", page(campaign)
    with writing(target):
        directory.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        for subject in campaign.subjects:
            folder = directory / subject.folder
            folder.mkdir(exist_ok=True)
            (folder / "junit.xml").write_bytes(junit(subject))
        write_allure(campaign, directory / "allure-results", time.time_ns() // 1_000_000)
    return target
