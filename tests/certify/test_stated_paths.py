"""Paths in certificates and reports: none says where on the machine something lay; a replay finds the model."""

import datetime
import shutil
from pathlib import Path

import pytest
from planted_certificate import planted_backend, planted_model

from certify.commands import run_again
from certify.plugin import model_words
from certify.profile import load_profile
from certify.report.campaign import campaign_of
from certify.run import RunRequest, RunResult, default_model, predicate_of, stated_model, stated_path
from zeitgeist.core.errors import LocalProtocolError

MODEL = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "zg-tiny"
TODAY = datetime.date(2026, 11, 21)
pytestmark = pytest.mark.requirement("W3")


def result(model: Path, out: Path) -> RunResult:
    """Of a run on model that left its results in out."""
    request = RunRequest("reference", model, out)
    return RunResult(request, load_profile(), planted_backend("reference"), planted_model(), "", [], "")


def test_a_path_is_stated_from_the_working_directory_on_or_by_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below it, beside it, and through `..`."""
    monkeypatch.chdir(tmp_path)
    assert stated_path(tmp_path / "models" / "one") == stated_path(Path("x") / ".." / "models" / "one") == "models/one"
    assert stated_path(Path("/some/where/else/two")) == stated_path(Path("..") / "two") == "two"


@pytest.mark.parametrize("certified", [True, False])
def test_no_certificate_and_no_report_says_where_on_the_machine_it_was_made(certified: bool, tmp_path: Path) -> None:
    """Model and results outside the working directory: signed or only shown, neither path is in it; nor in a case."""
    made = result(tmp_path / "secret" / "model", tmp_path / "secret" / "out")
    made.defects = "" if certified else "suite defect"
    told = repr(predicate_of(made, TODAY) if certified else campaign_of([made], [], TODAY))
    assert "model_path='model'" in told and "secret" not in told and str(Path.cwd()) not in told
    assert model_words(tmp_path / "secret" / "model") == ["--model", "model"]
    assert model_words(MODEL) == []


@pytest.mark.parametrize("stated", ["zg-tiny", "fixtures/models/zg-tiny"])
def test_a_replay_finds_the_default_model_wherever_it_lies(
    stated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate made in a checkout, or on the wheel's model, replayed from a folder that has neither."""
    monkeypatch.chdir(tmp_path)
    assert stated_model(stated) == default_model() and default_model().is_dir()


def test_a_replay_finds_a_model_below_the_working_directory_and_asks_for_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the path that its certificate states; of another model `--model` says where it is, and its digest decides."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODEL, "models/mine")
    inside = predicate_of(result(Path("models/mine"), Path("out")), TODAY)
    assert stated_model(inside.run.model_path).samefile("models/mine")
    outside = predicate_of(result(Path("/no/mine"), Path("out")), TODAY)
    with pytest.raises(LocalProtocolError, match="--model"):
        run_again(outside, None, tmp_path)
    with pytest.raises(LocalProtocolError, match="is not that of the certificate"):
        run_again(outside, Path("models/mine"), tmp_path)
