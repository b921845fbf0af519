"""A record that is lost on the way is a failure of the harness, with the case's name (W1)."""

import io
from pathlib import Path
from typing import Any

import pytest
from planted_certificate import planted_backend, planted_model
from test_replay import record

from certify.records import write_records
from certify.run import Preflight, RunRequest, collect, lost_cases
from zeitgeist.core.errors import ZeitgeistError

pytestmark = pytest.mark.requirement("W1")
A, B = record("B.a"), record("B.b")
HEARD: list[dict[str, Any]] = [
    {"total": 2, "nodeids": ["f.py::a", "f.py::b"]},
    {"case": "B.a", "family": "B", "verdict": "EXACT", "nodeid": "f.py::a"},
    {"case": "B.b", "family": "B", "verdict": "EXACT", "nodeid": "f.py::b"},
]


def test_what_was_announced_is_compared_with_what_was_recorded() -> None:
    """All there; a record gone; a case that never spoke, named as pytest does; two of one id; one too many."""
    assert lost_cases(HEARD, [A, B]) == ""
    assert lost_cases(HEARD, [A]) == "2 cases were announced, 1 have a record; lost: B.b"
    assert "lost: f.py::b" in lost_cases(HEARD[:2], [A])
    twice = [*HEARD[:2], {**HEARD[2], "case": "B.a"}]
    assert "lost: B.a" in lost_cases(twice, [A])
    assert "never announced: B.c" in lost_cases(HEARD, [A, B, record("B.c")])


@pytest.mark.parametrize(("defects", "refused"), [("", True), ("B.b: did not come to its end", False)])
def test_a_run_that_lost_a_record_is_no_result(defects: str, refused: bool, tmp_path: Path) -> None:
    """pytest ended well and one line is missing; when the suite's own list of defects tells of it, that is said."""
    request = RunRequest("reference", tmp_path, tmp_path)
    request.folder.mkdir()
    write_records(request.folder / "records.jsonl", [A])
    (request.folder / "defects.txt").write_text(defects)
    seen = Preflight(planted_backend("reference"), planted_model(), "")
    if refused:
        with pytest.raises(ZeitgeistError, match=r"lost: B\.b"):
            collect(request, seen, 0, io.BytesIO(), HEARD)
    else:
        assert collect(request, seen, 0, io.BytesIO(), HEARD).defects == defects
