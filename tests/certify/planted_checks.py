"""Checks planted by the tests of the plugin: one for each way to end. Collected only when named on the command line."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from certify.case import Case
from certify.plugin import Peers
from certify.registry import at_level, check
from certify.subject import Subject


def planted(id: str, **more: object) -> Callable[..., Callable[..., None]]:
    """A check of family Z."""
    return check(id=f"Z.{id}", family="Z", clause="W1", expectation="as planted", level="smoke", **more)  # type: ignore[arg-type]


@planted("exact")
def test_exact(case: Case, subject: Subject) -> None:
    """Exact (W1)."""
    case.exact("rows", np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32))


@planted("pass-is-worse-than-exact")
def test_pass(case: Case) -> None:
    """Pass is worse than exact (W1)."""
    case.exact("n", 1, 1)
    case.within("distance", 1e-6, 5e-5, "cache.uncached_x32", "logit")


@planted("info-is-worse-than-pass")
def test_info(case: Case) -> None:
    """Info is worse than pass (W1)."""
    case.holds("claim", True, "seen")
    case.info("only reported")


@planted("nan-fails")
def test_nan(case: Case) -> None:
    """Nan fails (W1)."""
    case.within("distance", float("nan"), 5e-5, "cache.uncached_x32")


@planted("one-bit-fails")
def test_one_bit(case: Case) -> None:
    """One bit fails (W1)."""
    case.exact("zero", np.array([0.0, -0.0], np.float32), np.array([0.0, 0.0], np.float32))


@planted("assert-fails")
def test_assert(case: Case) -> None:
    """Assert fails (W1)."""
    case.exact("n", 1, 1)
    assert case.seed == -1, "an assertion in a check"


@planted("a-refusal-that-did-not-come-fails")
def test_not_refused(case: Case, subject: Subject) -> None:
    """A refusal that did not come fails (W1)."""
    case.refuses(subject.open, field="layers")


@planted("another-field-fails")
def test_other_field(case: Case, subject: Subject) -> None:
    """Another field fails (W1)."""
    case.refuses(lambda: subject.open(0, 99), field="ids")


@planted("subject-error-fails")
def test_subject_error(case: Case, subject: Subject) -> None:
    """Subject error fails (W1)."""
    subject.open(0, 99)


@planted("killed-is-crash")
def test_killed(case: Case, subject: Subject) -> None:
    """Killed is crash (W1)."""
    case.exact("n", 1, 1)
    os.kill(subject.child.process.pid, signal.SIGKILL)
    case.refuses(subject.describe, field="anything")


@planted("lives-again")
def test_lives_again(case: Case, subject: Subject) -> None:
    """Lives again (W1)."""
    case.exact("rows", list(subject.prefill(subject.open(), [1]).shape), [1, subject.model.config.vocab_size])


@planted("inconclusive")
def test_inconclusive(case: Case) -> None:
    """Inconclusive (W1)."""
    case.inconclusive_if(2.0 > 1.0, "the floor is above the budget")


@planted("nothing-compared-is-our-defect")
def test_nothing(case: Case) -> None:
    """Nothing compared is our defect (W1)."""
    case.measured("seconds", 1.0)


@planted("our-exception-is-our-defect")
def test_our_exception(case: Case) -> None:
    """Our exception is our defect (W1)."""
    raise ValueError("the suite's own bug")


@planted("no-source-is-our-defect")
def test_no_source(case: Case) -> None:
    """No source is our defect (W1)."""
    case.within("distance", 0.0, 1.0, "no.such.source")


@planted("finding")
def test_finding(case: Case) -> None:
    """Finding (W1)."""
    case.finding("planted", "property", "a statement", "evidence")
    case.holds("claim", True, "seen")


@planted("levels")
@pytest.mark.parametrize("n", [1, pytest.param(4096, marks=at_level("full"))])
def test_levels(case: Case, n: int) -> None:
    """Levels (W1)."""
    case.exact("n", n, n)


@planted("entropy")
def test_entropy(case: Case) -> None:
    """Entropy (W1)."""
    draws = [case.rng(label).integers(0, 2**62) for label in ("a", "a", "b")]
    case.holds("same label", bool(draws[0] == draws[1]), "equal")
    case.holds("other label", bool(draws[0] != draws[2]), "different")
    case.seal("draw", int(draws[0]))


@planted("peers")
def test_peers(case: Case, subject: Subject, peers: Peers) -> None:
    """Peers (W1)."""
    for name in peers.names:
        case.exact("vocabulary", peers[name].model.config.vocab_size, subject.model.config.vocab_size)
        case.exchanged(name, case.subject_name)
        case.exchanged(case.subject_name, name)
    case.holds("peers", True, f"{len(peers.names)}")


@planted("another-model", needs=("prefill",))
def test_another(case: Case, start: Callable[[Path], Subject], model_path: Path) -> None:
    """Another model (W1)."""
    case.exact("model", str(start(model_path).model.model), str(start(model_path).model.model))
