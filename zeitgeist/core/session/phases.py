"""Phases 2 to 5: what each side has, what both conclude, what they commit to (B1, B2, B3).

Law: the dialler speaks first in each phase and the acceptor answers in kind; both conclusions come from the same four
records, and a difference is refused (`zg/negotiate/disagreement`).
"""

from zeitgeist.core.auth.modes import choose
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.canonical import digest
from zeitgeist.core.negotiate.agreement import negotiate
from zeitgeist.core.negotiate.declared import Side
from zeitgeist.core.negotiate.plans import plan_for, plan_reasons
from zeitgeist.core.outbox import Outbox
from zeitgeist.core.session.book import Book
from zeitgeist.core.session.link import Link
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.extensions import check_extensions
from zeitgeist.core.wire.messages import Assessment, Capabilities, Models, PlanAgreed, PlanProposal

__all__ = ["agreed", "assessed", "described", "modelled", "proposed", "resume", "start"]


def start(book: Book, link: Link, now: Instant, out: Outbox) -> None:
    """Phase 1 is over. The dialler describes itself, once it knows what it has."""
    if not link.dialled:
        return
    if waits(book, link):
        link.held = True
        return
    link.ours = book.own_side(link, now)
    out.frame(link.link, Capabilities(descriptor=link.ours.descriptor))


def resume(book: Book, link: Link, now: Instant, out: Outbox) -> None:
    """Our workers have settled: say what was held back."""
    link.held = False
    if link.dialled:
        start(book, link, now, out)
    else:
        answer_capabilities(book, link, now, out)


def waits(book: Book, link: Link) -> bool:
    """Peers hear what we have when we know it; workers need not wait for one another."""
    return not book.settled and link.lane != "local"


def described(book: Book, link: Link, said: Capabilities, now: Instant, out: Outbox) -> None:
    """Phase 2. The descriptor has to be of whom has proven itself, and the mode the best that both lists allow."""
    check_extensions(said.extensions, ())
    descriptor = said.descriptor
    if link.held or (link.dialled and link.ours is None):
        raise refuse("zg/session/out-of-order", "capabilities", "one more", "one, after ours when we dialled")
    if descriptor.node != link.peer:
        raise refuse("zg/negotiate/other-node", "descriptor.node", descriptor.node, link.peer)
    link.descriptor = descriptor
    if link.dialled:
        require_best_mode(link)
        book.move(link, "capabilities", out)
        assert link.ours is not None, "checked above"
        out.frame(link.link, Models(models=link.ours.models))
    elif waits(book, link):
        link.held = True
    else:
        answer_capabilities(book, link, now, out)


def answer_capabilities(book: Book, link: Link, now: Instant, out: Outbox) -> None:
    """The acceptor's half of phase 2."""
    link.ours = book.own_side(link, now)
    require_best_mode(link)
    book.move(link, "capabilities", out)
    out.frame(link.link, Capabilities(descriptor=link.ours.descriptor))


def require_best_mode(link: Link) -> None:
    """Both lists again, now from proven parties: a stranger between us who stripped modes from Hello shows here."""
    assert link.ours is not None and link.descriptor is not None, "phase 2"
    ours, theirs = link.ours.descriptor.auth, link.descriptor.auth
    best = choose(theirs, ours) if link.dialled else choose(ours, theirs)
    if best != link.mode:
        raise refuse("zg/auth/downgraded", "mode", link.mode, f"{best}, which both sides list")


def modelled(book: Book, link: Link, said: Models, out: Outbox) -> None:
    """Phase 3. Both have all four records now."""
    assert link.ours is not None and link.descriptor is not None, "phase 2 is over"
    link.theirs = Side(descriptor=link.descriptor, models=said.models, local=link.lane == "local")
    link.agreement = negotiate(*link.sides())
    book.move(link, "models", out)
    if link.dialled:
        assess(link, out)
    else:
        out.frame(link.link, Models(models=link.ours.models))


def assess(link: Link, out: Outbox) -> None:
    """Say what we conclude."""
    agreement = link.agreement
    assert agreement is not None, "phase 3 is over"
    out.frame(
        link.link,
        Assessment(
            outcome=agreement.outcome,
            agreement=digest(agreement),
            reasons=agreement.reasons,
            conversions=agreement.conversions,
        ),
    )


def assessed(book: Book, link: Link, said: Assessment, out: Outbox) -> None:
    """Phase 4: the same conclusion, or an end. `incompatible` is answered by every reason."""
    agreement = link.agreement
    assert agreement is not None, "phase 3 is over"
    if said.outcome != agreement.outcome or said.agreement != digest(agreement):
        raise refuse(
            "zg/negotiate/disagreement",
            "agreement",
            f"{said.outcome} {said.agreement[:24]}",
            f"{agreement.outcome} {digest(agreement)[:24]}",
        )
    if not link.dialled:
        assess(link, out)
    if agreement.outcome == "incompatible":
        if not link.dialled:  # the dialler hears our assessment first, and ends by the same reasons
            book.move(link, "assessment", out)
            return
        book.refuse(link, agreement.reasons, out)
        return
    book.move(link, "assessment", out)
    if link.dialled:
        link.plan = plan_for(agreement, *link.sides())
        out.frame(link.link, PlanProposal(agreement=digest(agreement), plan=link.plan))


def proposed(link: Link, said: PlanProposal) -> None:
    """Phase 5, acceptor: the plan stands on our agreement and holds nothing that it does not allow."""
    agreement = link.agreement
    assert agreement is not None, "phase 4 is over"
    if agreement.outcome == "incompatible" or said.agreement != digest(agreement):
        raise refuse("zg/negotiate/disagreement", "agreement", said.agreement[:24], digest(agreement)[:24])
    reasons = plan_reasons(said.plan, agreement, *link.sides())
    if reasons:
        raise RemoteProtocolError("zg/negotiate/bad-plan", "; ".join(r.detail for r in reasons), reasons[0].field)
    link.plan = said.plan


def agreed(link: Link, said: PlanAgreed) -> None:
    """Phase 5, dialler: the acceptor committed to the same plan."""
    assert link.plan is not None, "we proposed one"
    if said.plan != digest(link.plan):
        raise refuse("zg/negotiate/disagreement", "plan", said.plan[:80], digest(link.plan))
