"""Two sides → one agreement: outcome, every reason, conversions with their cost, mode of the plan (B1, B2).

Law: `negotiate` is pure and knows no "we": dialler and acceptor are its arguments, so both ends compute the same record
from the same four declarations and compare digests. Trust is no part of it: it is one side's own, and checked on every
message instead.
"""

from collections.abc import Iterable

import msgspec

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.node import ModelOffer
from zeitgeist.core.descriptors.plan import Mode
from zeitgeist.core.formats.canonical import Record, digest
from zeitgeist.core.ids import Digest, NodeId
from zeitgeist.core.negotiate.caches import FormPrice, route
from zeitgeist.core.negotiate.declared import Side, engines_of, mismatches, reason, undeclared
from zeitgeist.core.wire.messages import Conversion, Outcome, Reason

__all__ = ["ENTRIES_MAX", "Agreement", "negotiate"]

ENTRIES_MAX = 64
"""Reasons, and conversions, that fit an Assessment; the last one says how many more there are."""

TEXT_CLASSES = ("planner_only", "client_only")


class Agreement(Record, frozen=True, kw_only=True):
    """What two sides conclude. dialler, acceptor: node ids; sides: digests of what each declared, in that order; cache:
    how KV caches may move between them."""

    agreement_version: int = 1
    dialler: NodeId
    acceptor: NodeId
    sides: tuple[Digest, Digest]
    outcome: Outcome
    mode: Mode
    cache: str
    reasons: tuple[Reason, ...]
    conversions: tuple[Conversion, ...]


class Verdict(msgspec.Struct, frozen=True):
    """The part of an agreement that is a conclusion."""

    outcome: Outcome
    mode: Mode
    cache: str = "none"
    reasons: tuple[Reason, ...] = ()
    conversions: tuple[Conversion, ...] = ()


def negotiate(dialler: Side, acceptor: Side) -> Agreement:
    """The one agreement of these two. First what forbids any work, then who can work for whom, then how closely."""
    verdict = judge(dialler, acceptor)
    return Agreement(
        dialler=dialler.descriptor.node,
        acceptor=acceptor.descriptor.node,
        sides=(digest(dialler), digest(acceptor)),
        outcome=verdict.outcome,
        mode=verdict.mode,
        cache=verdict.cache,
        reasons=bounded_reasons(verdict.reasons),
        conversions=bounded_conversions(verdict.conversions),
    )


def judge(dialler: Side, acceptor: Side) -> Verdict:
    """Rules in order of weight; the first that applies decides, with all its reasons."""
    sides = (dialler, acceptor)
    hard = (*undeclared(dialler), *undeclared(acceptor), *mismatches(dialler, acceptor))
    if hard:
        return Verdict("incompatible", "solo", reasons=hard)
    clients = [side for side in sides if side.descriptor.roles == ("client",)]
    if len(clients) == 2:
        return Verdict("incompatible", "solo", reasons=tuple(of_side("nobody-serves", side, "roles") for side in sides))
    if clients:
        return Verdict("api_only", "client_only", reasons=(of_side("client-only", clients[0], "roles"),))
    executors = [side for side in sides if "executor" in side.descriptor.roles]
    if not executors:
        return Verdict("solo_only", "solo", reasons=tuple(of_side("no-executor", side, "roles") for side in sides))
    text = tuple(why for side in executors for why in text_engines(side))
    if text and all(not capable(side) for side in executors):
        return Verdict("api_only", "api_only", reasons=text)
    mode: Mode = "routed" if any(side.models for side in executors) else "solo"
    if len(executors) == 1:
        return Verdict("compatible", mode, reasons=text)
    return together(dialler, acceptor, text)


def together(dialler: Side, acceptor: Side, text: tuple[Reason, ...]) -> Verdict:
    """Both execute: can a job's state move between them, model by model?"""
    reasons, conversions = list(text), list[Conversion]()
    native = possible = 0
    ours, theirs = by_model(dialler), by_model(acceptor)
    known = engines_of(dialler), engines_of(acceptor)
    common = [model for model in ours if model in theirs]
    for model in common:
        mine, other = engines(known[0], ours[model]), engines(known[1], theirs[model])
        ways = both_ways(ours[model][0], theirs[model][0], mine, other, (dialler, acceptor))
        native += all(not missing and not price.conversions for price, missing in ways)
        possible += any(not missing for _, missing in ways)
        for price, missing in ways:
            reasons += missing
            conversions += price.conversions if not missing else ()
    reasons += relatives(dialler, acceptor)
    if not common:
        reasons.append(of_pair("no-common-model", dialler, acceptor))
        return Verdict("solo_only", "routed", reasons=unique(reasons))
    if not possible:
        return Verdict("solo_only", "routed", reasons=unique(reasons))
    if native == len(common):
        return Verdict("compatible", "routed", "native", reasons=unique(reasons))
    moved = tuple(dict.fromkeys(conversions))
    return Verdict("with_conversion", "routed", "protocol" if moved else "native", unique(reasons), moved)


def both_ways(
    ours: ModelOffer,
    theirs: ModelOffer,
    mine: list[BackendDescriptor],
    other: list[BackendDescriptor],
    sides: tuple[Side, Side],
) -> list[tuple[FormPrice, tuple[Reason, ...]]]:
    """(best price, what is missing) from dialler to acceptor and back, over the engines that hold one model. Another
    tokenizer is another identity, whatever the forms."""
    a, b = (side.descriptor.node for side in sides)
    if ours.descriptor.tokenizer != theirs.descriptor.tokenizer:
        differs = reason(
            id="zg/negotiate/tokenizer-differs",
            detail=f"{a} has {ours.descriptor.tokenizer}, {b} has {theirs.descriptor.tokenizer}",
            field="models.descriptor.tokenizer",
        )
        return [(FormPrice(), (differs,))] * 2
    head_dim = ours.descriptor.config.head_dim
    return [
        min(
            (route(exporter, importer, head_dim, who) for exporter in exporters for importer in importers),
            key=lambda way: (len(way[1]), way[0].rank()),
        )
        for exporters, importers, who in ((mine, other, f"{a} to {b}"), (other, mine, f"{b} to {a}"))
    ]


def by_model(side: Side) -> dict[Digest, list[ModelOffer]]:
    """Offers by model digest, in the order of declaration."""
    offers: dict[Digest, list[ModelOffer]] = {}
    for offer in side.models:
        offers.setdefault(offer.descriptor.model, []).append(offer)
    return offers


def engines(known: dict[str, BackendDescriptor], offers: list[ModelOffer]) -> list[BackendDescriptor]:
    """The distinct engines that hold these offers; `undeclared` made sure that each has one."""
    return [known[name] for name in dict.fromkeys(offer.engine for offer in offers)]


def relatives(dialler: Side, acceptor: Side) -> list[Reason]:
    """Models of one name whose numbers differ: people will wonder why."""
    theirs = {offer.descriptor.name: offer.descriptor.model for offer in acceptor.models}
    return [
        reason(
            id="zg/negotiate/model-differs",
            detail=f"{offer.descriptor.name[:100]}: {offer.descriptor.model} against {theirs[offer.descriptor.name]}",
            field="models.descriptor.model",
        )
        for offer in dialler.models
        if theirs.get(offer.descriptor.name, offer.descriptor.model) != offer.descriptor.model
    ]


def speaks_text(backend: BackendDescriptor) -> bool:
    """It takes text and samples by itself, or is no engine at all: no job of ours can be moved on or off it."""
    return (backend.prompt == "text" and backend.sampler == "native") or all(
        word in TEXT_CLASSES for word in backend.classes
    )


def capable(side: Side) -> bool:
    """At least one engine of this side takes part in the protocol's jobs."""
    return any(not speaks_text(backend) for backend in side.descriptor.backends)


def text_engines(side: Side) -> tuple[Reason, ...]:
    """Which engines can be reached as an API only."""
    return tuple(
        of_side("text-engine", side, f"backends[{index}].prompt")
        for index, backend in enumerate(side.descriptor.backends)
        if speaks_text(backend)
    )


WHY = {
    "client-only": "{node} is a client: it asks, it does not execute",
    "nobody-serves": "{node} is a client, and so is the other side",
    "no-executor": "{node} executes nothing",
    "text-engine": "{node} has an engine that takes text and samples by itself",
    "no-common-model": "{node} and {other} hold no model in common",
}


def of_side(word: str, side: Side, field: str) -> Reason:
    """A reason about one side's declaration."""
    node = side.descriptor.node
    return reason(id=f"zg/negotiate/{word}", detail=WHY[word].format(node=node), field=f"{node}.{field}")


def of_pair(word: str, dialler: Side, acceptor: Side) -> Reason:
    """A reason about both."""
    detail = WHY[word].format(node=dialler.descriptor.node, other=acceptor.descriptor.node)
    return reason(id=f"zg/negotiate/{word}", detail=detail, field="models")


def unique(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Each reason once, in order."""
    return tuple(dict.fromkeys(reasons))


def bounded_reasons(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """As many as a record holds; the last says how many were left out."""
    if len(reasons) <= ENTRIES_MAX:
        return reasons
    more = len(reasons) - ENTRIES_MAX + 1
    return (
        *reasons[: ENTRIES_MAX - 1],
        reason(id="zg/negotiate/more-reasons", detail=f"{more} more of the same kinds"),
    )


def bounded_conversions(conversions: tuple[Conversion, ...]) -> tuple[Conversion, ...]:
    """The same for conversions; what is summed up is exact only if all are, and costs their sum."""
    if len(conversions) <= ENTRIES_MAX:
        return conversions
    rest = conversions[ENTRIES_MAX - 1 :]
    summed = Conversion(
        what=f"{len(rest)} more conversions", exact=all(c.exact for c in rest), cost=sum(c.cost for c in rest)
    )
    return (*conversions[: ENTRIES_MAX - 1], summed)
