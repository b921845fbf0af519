"""Levels (W1): the table of the profile, reasons why not higher, and nothing undecided ever counts as held."""

from dataclasses import replace

import msgspec
import pytest

from certify.levels import Claims, Grade, foreign_engines, grade, meets
from certify.profile import load_profile
from certify.verdict import Exchange, Verdict
from zeitgeist.core.errors import ZeitgeistError

PROFILE = load_profile()
CLAIMS = Claims(
    kind="backend", engine="torch", band="x32", run_to_run=True, batch_invariant=False, chunk_invariant=False
)
FAMILIES = "BTSNGVFDX"
BOTH_WAYS = tuple(
    Exchange(exporter=a, importer=b)
    for other in ("mlx", "llama_cpp:fa")
    for a, b in ((other, "torch"), ("torch", other))
)


def counts(**changed: dict[str, int]) -> dict[str, dict[str, int]]:
    """Every family held, but for those given."""
    return {**{family: {"PASS": 3} for family in FAMILIES}, **changed}


def graded(exchanges: tuple[Exchange, ...] = BOTH_WAYS, **changed: dict[str, int]) -> Grade:
    """The grade of these counts."""
    return grade(counts(**changed), exchanges, CLAIMS, PROFILE)


@pytest.mark.requirement("W1")
def test_all_families_and_two_foreign_engines_are_l4() -> None:
    """The text has band, assurance and the flags that were claimed and tested."""
    assert graded().text == "L4-x32-S+r" and graded().why_not == ()


@pytest.mark.requirement("W1")
@pytest.mark.parametrize(
    ("family", "level"),
    [
        ("B", "L0"),
        ("T", "L0"),
        ("S", "L1"),
        ("N", "L1"),
        ("G", "L1"),
        ("V", "L2"),
        ("F", "L2"),
        ("D", "L2"),
        ("X", "L3"),
    ],
)
@pytest.mark.parametrize("verdict", ["FAIL", "CRASH", "SKIPPED", "INCONCLUSIVE"])
def test_one_case_that_does_not_hold_ends_the_level_before(family: str, level: str, verdict: str) -> None:
    """For every family and every blocking verdict; the reason names the family and the verdict."""
    got = graded(**{family: {"PASS": 100, verdict: 1}})
    assert got.level == level
    assert any(f"family {family}: 1 {verdict}" in reason for reason in got.why_not)


@pytest.mark.requirement("W1")
@pytest.mark.parametrize("row", [{}, {"UNSUPPORTED": 4}, {"INFO": 4}])
def test_a_family_that_showed_nothing_does_not_hold(row: dict[str, int]) -> None:
    """Not run, only unsupported, only informed: none is a level."""
    assert graded(V=row).level == "L2"


@pytest.mark.requirement("W1")
def test_l4_needs_two_foreign_engines_in_both_directions() -> None:
    """One direction is not enough, neither are two variants of one engine, neither is one's own engine."""
    assert graded(BOTH_WAYS[:3]).level == "L3"
    variants = tuple(
        msgspec.structs.replace(
            e,
            exporter=e.exporter.replace("mlx", "llama_cpp:stock"),
            importer=e.importer.replace("mlx", "llama_cpp:stock"),
        )
        for e in BOTH_WAYS
    )
    assert graded(variants).level == "L3"
    assert foreign_engines(BOTH_WAYS, "torch") == ("llama_cpp", "mlx")
    assert foreign_engines([Exchange(exporter="torch:a", importer="torch:b")], "torch") == ()


@pytest.mark.requirement("W1")
def test_a_subject_that_is_not_admitted_has_no_level() -> None:
    """Whatever the counts say."""
    got = grade(counts(), BOTH_WAYS, CLAIMS, PROFILE, admitted=False)
    assert (got.level, got.text) == ("", "none") and "nonsense" in got.why_not[0]


@pytest.mark.requirement("W1")
def test_determinism_is_a_flag_that_falls_with_family_d() -> None:
    """A claim that was not tested, or whose family fails, is not printed."""
    assert graded(D={"FAIL": 1, "PASS": 9}).flags == ""
    every = msgspec.structs.replace(CLAIMS, batch_invariant=True, chunk_invariant=True)
    assert grade(counts(), BOTH_WAYS, every, PROFILE).flags == "rbc"


@pytest.mark.requirement("W1")
def test_an_endpoint_stops_at_l2() -> None:
    """The table of that kind ends there."""
    endpoint = msgspec.structs.replace(CLAIMS, kind="endpoint")
    assert grade(counts(P={"PASS": 1}), (), endpoint, PROFILE).level == "L2"


@pytest.mark.requirement("W1")
@pytest.mark.parametrize(("wanted", "met"), [("L0", True), ("L4", True), ("L4-x32", True), ("L4-x16", True)])
def test_require_compares_level_and_band(wanted: str, met: bool) -> None:
    """x32 meets x16; nothing meets a level that is not held; nonsense is refused."""
    assert meets(graded(), wanted, PROFILE) is met
    assert meets(msgspec.structs.replace(graded(), band="q8"), "L4-x32", PROFILE) is False
    with pytest.raises(ZeitgeistError, match="require"):
        meets(graded(), "gold", PROFILE)


@pytest.mark.requirement("W1")
def test_require_knows_the_levels_of_the_profile_and_no_other() -> None:
    """A table of three metals, in its own order: silver is met from gold down; L0 is not a level of it."""
    table = {"backend": (("bronze", ("B",)), ("silver", ("T",)), ("gold", ("S",)))}
    metals = replace(PROFILE, levels=table)
    got = grade(counts(S={"FAIL": 1}), (), CLAIMS, metals)
    assert got.text == "silver-x32-S+r"
    met = {wanted: meets(got, wanted, metals) for wanted in ("bronze", "silver", "gold", "silver-x32")}
    assert met == {"bronze": True, "silver": True, "gold": False, "silver-x32": True}
    assert not meets(grade(counts(B={}), (), CLAIMS, metals), "bronze", metals)
    with pytest.raises(ZeitgeistError, match="bronze, silver, gold"):
        meets(got, "L0", metals)


def test_counts_of_an_unknown_verdict_never_help() -> None:
    """A family with only words that are no verdict does not hold."""
    assert graded(V={"SPLENDID": 7}).level == "L2"
    assert set(Verdict) >= {"EXACT", "FAIL"}
