"""Who runs a job: a snapshot of candidates in, a plan or every reason against one out (A7, F2).

Law: pure. The same snapshot gives the same bytes, on any host, off the loop. Rules in order: a worker of this node
before a peer; among peers the better outcome of negotiation; then the smaller name. Nothing is guessed: a name that
stands for two models among equals is refused, and so is each candidate that cannot, with its reason.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from zeitgeist.core.descriptors.plan import Plan, Stage
from zeitgeist.core.formats.canonical import Record, decode, encode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest, NodeId
from zeitgeist.core.wire.messages import Outcome, Reason

__all__ = ["OUTCOMES", "Candidate", "Decision", "Offered", "Snapshot", "plan", "snapshot_digest"]

OUTCOMES: tuple[Outcome, ...] = ("compatible", "with_conversion", "solo_only")
"""Outcomes of negotiation that let a peer run a whole job of ours, best first (B2)."""

SNAPSHOT_BYTES_MAX = 1 << 24
"""A thousand peers with a hundred models each, at 150 bytes a model; a snapshot never leaves its node."""


class Offered(Record, frozen=True, kw_only=True):
    """One model of a candidate: its name, its digest, the worker that holds it, how many layers it has."""

    name: str
    model: Digest
    backend: str
    layers: int


class Candidate(Record, frozen=True, kw_only=True):
    """A worker of this node, or a peer, and what of it a plan may weigh."""

    node: NodeId
    local: bool
    outcome: Outcome
    trusted: bool
    draining: bool
    models: tuple[Offered, ...]


class Snapshot(Record, frozen=True, kw_only=True):
    """All that a plan depends on. model: a name or a digest, as the job says."""

    snapshot_version: int = 1
    node: NodeId
    model: str
    prompt: Literal["text", "ids"]
    candidates: tuple[Candidate, ...]


class Decision(Record, frozen=True, kw_only=True):
    """A plan, or None and every reason."""

    plan: Plan | None
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=64)] = ()


def snapshot_digest(snapshot: bytes) -> Digest:
    """What `Planned.snapshot` says: the answer belongs to these bytes."""
    return content_digest(snapshot)


def plan(snapshot: bytes) -> bytes:
    """The decision about a snapshot, both as canonical bytes."""
    return encode(decide(decode(snapshot, Snapshot, SNAPSHOT_BYTES_MAX)))


def decide(snapshot: Snapshot) -> Decision:
    """Judge each candidate, then rank what is left."""
    fit: list[tuple[tuple[int, int, str], Candidate, Offered]] = []
    reasons: list[Reason] = []
    for candidate in snapshot.candidates:
        verdict = judge(candidate, snapshot.model)
        if isinstance(verdict, Reason):
            reasons.append(verdict)
        else:
            rank = (0 if candidate.local else 1, 0 if candidate.local else OUTCOMES.index(candidate.outcome))
            fit.append(((*rank, candidate.node), candidate, verdict))
    if not fit:
        nobody = Reason(
            id="zg/plan/no-executor",
            detail=f"{len(snapshot.candidates)} candidates, none can run {snapshot.model[:80]}",
            field="model",
        )
        return Decision(plan=None, reasons=(nobody, *reasons[:63]))
    fit.sort(key=lambda entry: entry[0])
    _, first, offered = fit[0]
    model = offered.model
    named = sorted({other.model for _, candidate, other in fit if candidate.local == first.local})
    if len(named) > 1:
        return Decision(plan=None, reasons=(ambiguous(snapshot.model, named, "model"),))
    stage = Stage(node=first.node, backend=offered.backend, model=model, layer_first=0, layer_stop=offered.layers)
    others = tuple(candidate.node for _, candidate, other in fit[1:] if other.model == model)
    return Decision(plan=Plan(mode="solo" if first.local else "routed", stages=(stage,), fallbacks=others))


def judge(candidate: Candidate, model: str) -> Offered | Reason:
    """The candidate's offer for model, or the first reason against it."""
    field = f"candidate {candidate.node}"
    if candidate.draining:
        return Reason(id="zg/plan/draining", detail="takes nothing new", field=field)
    if not candidate.trusted:
        return Reason(id="zg/plan/not-trusted", detail="is no trusted_executor for this node", field=field)
    if not candidate.local and candidate.outcome not in OUTCOMES:
        return Reason(
            id="zg/plan/not-compatible",
            detail=f"negotiation ended {candidate.outcome}, wanted one of {', '.join(OUTCOMES)}",
            field=field,
        )
    named = sorted(
        (offered for offered in candidate.models if model in (offered.name, offered.model)),
        key=lambda offered: (offered.model, offered.backend),
    )
    if not named:
        held = ", ".join(offered.name for offered in candidate.models[:8]) or "no model"
        return Reason(id="zg/plan/no-model", detail=f"holds {held}, wanted {model[:80]}", field=field)
    if named[0].model != named[-1].model:
        return ambiguous(model, [offered.model for offered in named], field)
    return named[0]


def ambiguous(model: str, digests: Sequence[Digest], field: str) -> Reason:
    """One name for several models: nobody guesses which was meant."""
    detail = f"{model[:80]} is {', '.join(digests[:4])}: name a digest"
    return Reason(id="zg/plan/ambiguous-model", detail=detail, field=field)
