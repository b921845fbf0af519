"""Phase 5: what a plan may hold, and every reason against one that holds more (A7, B1)."""

import msgspec
import pytest

from fixtures.golden_engines import MODEL
from tests.core.negotiate.test_agreement import F16_INTERLEAVED, idle, side
from tests.core.pair import Pair, Party, backend, boot_of, changed, config_of, decoded
from zeitgeist.core.descriptors.plan import Plan, Stage
from zeitgeist.core.facts import PeerUp
from zeitgeist.core.formats.canonical import digest
from zeitgeist.core.negotiate.agreement import negotiate
from zeitgeist.core.negotiate.plans import plan_for, plan_reasons
from zeitgeist.core.trace import PeerJoined
from zeitgeist.core.wire.messages import PlanAgreed, PlanProposal

pytestmark = pytest.mark.requirement("A7", "B1")

A, B = side("a"), side("b")
AGREEMENT = negotiate(A, B)
PLAN = plan_for(AGREEMENT, A, B)


def test_a_plan_names_each_executors_models_as_whole_stages() -> None:
    stage = Stage(node="a", backend="worker-1", model=MODEL.model, layer_first=0, layer_stop=MODEL.config.layer_count)
    assert PLAN.stages == (stage, msgspec.structs.replace(stage, node="b"))
    assert (PLAN.mode, PLAN.cache) == ("routed", "native")


@pytest.mark.parametrize(
    ("a", "b", "mode", "cache", "count"),
    [
        (A, side("b", engines=(backend(F16_INTERLEAVED),)), "routed", "protocol", 2),
        (idle("a", "coordinator"), B, "routed", "none", 1),
        (idle("a", "client"), B, "client_only", "none", 1),
        (idle("a", "coordinator"), idle("b", "coordinator"), "solo", "none", 0),
    ],
)
def test_the_plan_follows_from_the_agreement(a, b, mode, cache, count) -> None:
    plan = plan_for(negotiate(a, b), a, b)
    assert (plan.mode, plan.cache, len(plan.stages)) == (mode, cache, count)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mode": "api_only"}, {"plan.mode"}),
        ({"cache": "protocol"}, {"plan.cache"}),
        ({"plan_version": 2}, {"plan.plan_version"}),
        ({"fallbacks": ("c",)}, {"plan.fallbacks"}),
        ({"stages": (msgspec.structs.replace(PLAN.stages[0], node="c"),)}, {"plan.stages[0]"}),
        ({"stages": (msgspec.structs.replace(PLAN.stages[0], layer_stop=99),)}, {"plan.stages[0]"}),
        ({"stages": PLAN.stages * 2, "cache": "protocol"}, {"plan.stages", "plan.cache"}),
    ],
)
def test_a_plan_that_holds_more_than_the_agreement_is_refused_with_every_reason(fields, named) -> None:
    plan = msgspec.structs.replace(PLAN, **fields)
    assert {reason.field for reason in plan_reasons(plan, AGREEMENT, A, B)} == named


def test_a_narrower_plan_is_allowed() -> None:
    for plan in (Plan(mode="solo", stages=()), msgspec.structs.replace(PLAN, stages=PLAN.stages[:1], cache="none")):
        assert plan_reasons(plan, AGREEMENT, A, B) == ()


def test_both_sides_commit_to_the_digest_of_one_plan() -> None:
    """It stands in the events of both, and in what the other machines hear."""
    pair = Pair(Party(boot_of(config_of("a"))), Party(boot_of(config_of("b"))))
    pair.connect()
    (a,), (b,) = pair.a.all(PeerJoined), pair.b.all(PeerJoined)
    assert a.plan == b.plan == digest(pair.a.all(PeerUp)[0].plan) and a.agreement == b.agreement


@pytest.mark.parametrize(
    ("kind", "fields", "who"),
    [
        (PlanProposal, {"agreement": "sha256:" + "00" * 32}, "b"),
        (PlanProposal, {"plan": msgspec.structs.replace(PLAN, mode="api_only")}, "b"),
        (PlanProposal, {"plan": msgspec.structs.replace(PLAN, stages=PLAN.stages[:1])}, "a"),
        (PlanAgreed, {"plan": "sha256:" + "00" * 32}, "a"),
    ],
)
def test_a_plan_changed_on_the_way_makes_no_session_for_the_dialler(kind, fields, who) -> None:
    """What the agreement forbids is refused by the acceptor; what it allows, by the digest that comes back."""
    pair = Pair(
        Party(boot_of(config_of("a"))),
        Party(boot_of(config_of("b"))),
        lambda s, r, f: (changed(f, **fields),) if isinstance(decoded(f), kind) else (f,),
    )
    here, there = pair.connect()
    refuser = pair.a if who == "a" else pair.b
    assert refuser.refusals(ours=True)[0] in ("negotiate/disagreement", "negotiate/bad-plan")
    assert not pair.a.all(PeerUp) and (pair.a.state(here), pair.b.state(there)) == ("gone", "gone")
