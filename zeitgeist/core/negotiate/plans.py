"""Phase 5: the plan that an agreement allows, and every reason against another one (A7, B1).

Law: a session's plan says which whole models may be run where; it never promises what the agreement does not hold.
"""

from collections.abc import Iterator

from zeitgeist.core.descriptors.plan import Plan, Stage
from zeitgeist.core.negotiate.agreement import Agreement
from zeitgeist.core.negotiate.declared import Side, reason
from zeitgeist.core.wire.messages import Reason

__all__ = ["plan_for", "plan_reasons"]


def plan_for(agreement: Agreement, dialler: Side, acceptor: Side) -> Plan:
    """The widest plan of an agreement: each offer of an executor is a whole-model stage, and a job may go to any."""
    if agreement.mode == "solo":
        return Plan(mode="solo", stages=())
    stages = tuple(stage for side in (dialler, acceptor) for stage in stages_of(side))
    cache = "native" if agreement.cache == "native" else "protocol" if agreement.cache == "protocol" else "none"
    return Plan(mode=agreement.mode, stages=stages, cache=cache)


def stages_of(side: Side) -> tuple[Stage, ...]:
    """What a side can run whole."""
    if "executor" not in side.descriptor.roles:
        return ()
    return tuple(
        Stage(
            node=side.descriptor.node,
            backend=offer.backend,
            model=offer.descriptor.model,
            layer_first=0,
            layer_stop=offer.descriptor.config.layer_count,
        )
        for offer in side.models
    )


def plan_reasons(plan: Plan, agreement: Agreement, dialler: Side, acceptor: Side) -> tuple[Reason, ...]:
    """Everything in plan that the agreement does not allow; a narrower plan than ours is fine."""
    ours = plan_for(agreement, dialler, acceptor)
    return () if plan == ours else tuple(against(plan, ours))


def against(plan: Plan, ours: Plan) -> Iterator[Reason]:
    """Field by field."""
    if plan.plan_version != ours.plan_version:
        yield bad("plan_version", plan.plan_version, ours.plan_version)
    if plan.mode not in (ours.mode, "solo"):
        yield bad("mode", plan.mode, f"{ours.mode} or solo")
    if plan.cache not in (ours.cache, "none"):
        yield bad("cache", plan.cache, f"{ours.cache} or none")
    allowed = dict.fromkeys(ours.stages)
    for index, stage in enumerate(plan.stages):
        if stage not in allowed:
            got = f"{stage.model} [{stage.layer_first}, {stage.layer_stop}) on {stage.node} {stage.backend}"
            yield bad(f"stages[{index}]", got, "a whole model that its node offered")
    if len(plan.stages) > len(ours.stages):
        yield bad("stages", f"{len(plan.stages)} stages", f"at most {len(ours.stages)}")
    if plan.fallbacks:
        yield bad("fallbacks", ", ".join(plan.fallbacks), "none: a session has two parties")


def bad(field: str, got: object, wanted: object) -> Reason:
    """One difference."""
    return reason(
        id="zg/negotiate/bad-plan", detail=f"got {str(got)[:300]}, wanted {wanted}", field=f"plan.{field}"[:200]
    )
