"""The planner: rules in order, reasons for everyone, the same bytes for the same snapshot (A7, F2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitgeist.core.formats.canonical import decode, encode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest, NodeId
from zeitgeist.core.plan.planner import OUTCOMES, Candidate, Decision, Offered, Snapshot, plan, snapshot_digest

pytestmark = pytest.mark.requirement("A7")

BIG, SMALL = content_digest(b"big"), content_digest(b"small")


def offered(name: str = "tiny", model: Digest = BIG, backend: str = "w") -> Offered:
    return Offered(name=name, model=model, backend=backend, layers=6)


def candidate(node: str, *models: Offered, **changed: object) -> Candidate:
    fields = {"local": False, "outcome": "compatible", "trusted": True, "draining": False}
    return Candidate(node=NodeId(node), models=models or (offered(),), **(fields | changed))  # type: ignore[arg-type]


def decide(*candidates: Candidate, model: str = "tiny") -> Decision:
    snapshot = Snapshot(node=NodeId("n"), model=model, prompt="text", candidates=candidates)
    return decode(plan(encode(snapshot)), Decision)


def ids(decision: Decision) -> list[tuple[str, str]]:
    return [(reason.id.removeprefix("zg/plan/"), reason.field) for reason in decision.reasons]


@pytest.mark.requirement("F2")
def test_a_worker_of_the_node_comes_before_any_peer() -> None:
    """Solo before routed; the rest are fallbacks in order."""
    made = decide(candidate("a"), candidate("z.w", local=True), candidate("b", outcome="solo_only")).plan
    assert made is not None and (made.mode, made.stages[0].node) == ("solo", "z.w")
    assert made.fallbacks == ("a", "b") and (made.stages[0].layer_first, made.stages[0].layer_stop) == (0, 6)


@given(st.permutations([("c", "compatible"), ("a", "with_conversion"), ("b", "compatible"), ("d", "solo_only")]))
def test_peers_are_ranked_by_outcome_then_name(order: list[tuple[str, str]]) -> None:
    """Whatever order the snapshot lists them in."""
    made = decide(*(candidate(node, outcome=outcome) for node, outcome in order)).plan
    assert made is not None and (made.mode, made.stages[0].node, made.fallbacks) == ("routed", "b", ("c", "a", "d"))


@pytest.mark.parametrize("model", ["tiny", BIG])
def test_a_model_is_named_or_given_by_digest(model: str) -> None:
    """Both find the same, and the stage holds the digest."""
    made = decide(candidate("a", offered("other", SMALL), offered()), model=model).plan
    assert made is not None and made.stages[0].model == BIG and made.stages[0].backend == "w"


def test_nobody_fits_and_everyone_s_reason_is_told() -> None:
    """One reason a candidate, in the snapshot's order, after the summary."""
    decision = decide(
        candidate("a", draining=True),
        candidate("b", trusted=False),
        candidate("c", outcome="api_only"),
        candidate("d", offered("other", SMALL)),
        candidate("e", offered(), offered("tiny", SMALL)),
    )
    assert decision.plan is None
    assert ids(decision) == [
        ("no-executor", "model"),
        ("draining", "candidate a"),
        ("not-trusted", "candidate b"),
        ("not-compatible", "candidate c"),
        ("no-model", "candidate d"),
        ("ambiguous-model", "candidate e"),
    ]


def test_nobody_at_all_is_a_refusal() -> None:
    """No candidates: the summary alone."""
    assert ids(decide()) == [("no-executor", "model")]


def test_one_name_for_two_models_among_equals_is_refused() -> None:
    """Two peers hold different models of one name: nobody guesses; an own worker, or a digest, decides."""
    others = (candidate("a"), candidate("b", offered("tiny", SMALL)))
    assert ids(decide(*others)) == [("ambiguous-model", "model")]
    own = decide(*others, candidate("n.w", offered("tiny", SMALL), local=True)).plan
    assert own is not None and own.stages[0].node == "n.w" and own.fallbacks == ("b",)
    named = decide(*others, model=BIG).plan
    assert named is not None and named.stages[0].node == "a" and named.fallbacks == ()


def test_reasons_are_bounded() -> None:
    """A thousand unfit candidates: 64 reasons, the summary first."""
    decision = decide(*(candidate(f"p{number:04}", trusted=False) for number in range(1000)))
    assert len(decision.reasons) == 64 and decision.reasons[0].id == "zg/plan/no-executor"


def test_the_same_snapshot_gives_the_same_bytes_and_one_digest() -> None:
    """Pure; and a change of any candidate is another snapshot."""
    one = encode(Snapshot(node=NodeId("n"), model="tiny", prompt="ids", candidates=(candidate("a"),)))
    two = encode(Snapshot(node=NodeId("n"), model="tiny", prompt="ids", candidates=(candidate("a", draining=True),)))
    assert plan(one) == plan(bytes(one)) and snapshot_digest(one) != snapshot_digest(two)
    assert OUTCOMES[0] == "compatible"
