"""A case records what it compared, in which direction, and passes nothing that it did not judge (W1, W2)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_certificate import planted_backend

from certify.case import Case, CheckFailed
from certify.numerics import judge_logits
from certify.oracle import Oracle
from certify.profile import Profile, load_profile
from certify.registry import CheckMeta
from certify.verdict import Verdict

MODEL = Path(__file__).parents[2] / "fixtures" / "models" / "zg-tiny"
PROFILE = load_profile()
IDS = list(range(1, 13))


def case_of(profile: Profile = PROFILE) -> Case:
    """Of a check that nobody has registered."""
    meta = CheckMeta(
        id="N.c", family="N", clause="", level="smoke", needs=(), motive="", expectation="", requirement=(), where="",
        file="",
    )  # fmt: skip
    return Case(id="N.c", meta=meta, profile=profile, seed=0, subject_name="s", command="c")


def with_near_tie(value: float) -> Profile:
    """The profile with another near-tie of band x32."""
    key = "numerics.near_tie_x32"
    return replace(PROFILE, tolerances={**PROFILE.tolerances, key: replace(PROFILE.tolerances[key], value=value)})


@pytest.mark.requirement("W1")
def test_each_metric_says_its_direction_and_is_judged_by_it() -> None:
    """At most, at least, neither; on both sides and for NaN; the record is kept where it fails (W1)."""
    case = case_of()
    case.within("a", 1.0, 1.0, "fidelity.ulp")
    case.at_least("b", 1.0, 1.0, "fidelity.ulp")
    case.measured("c", 5.0)
    for compare, value in ((case.within, 2.0), (case.at_least, 0.5), (case.within, np.nan), (case.at_least, np.nan)):
        with pytest.raises(CheckFailed, match="the limit 1"):
            compare("d", value, 1.0, "fidelity.ulp")
    said = [(metric.direction, metric.holds) for metric in case.metrics]
    assert said[:3] == [("at most", True), ("at least", True), ("", True)]
    assert said[3:] == [("at most", False), ("at least", False)] * 2


@pytest.mark.requirement("W2")
def test_logits_without_a_clear_row_have_no_top1() -> None:
    """The oracle against itself: judged at an honest near-tie, not judged when every row is near one (W2)."""
    oracle = Oracle.open(MODEL)
    found = oracle.logits(IDS).astype(np.float32)
    for near_tie, judged in ((PROFILE["numerics.near_tie_x32"], True), (1e6, False)):
        case = case_of(with_near_tie(near_tie))
        judge_logits(case, oracle, planted_backend("reference"), found, IDS)
        counted = next(float(m.value) for m in case.metrics if m.name == "top-1 rows counted")
        assert any(m.name == "top-1" for m in case.metrics) is judged and (counted > 0) is judged
        assert case.verdict() is Verdict.PASS, "KL and distance are judged in both"
