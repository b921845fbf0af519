"""Family B: the backend contract (I1). What a subject claims is true, what it does not know it refuses, sessions are
its own.

Token ids are drawn from the seed; numbers are judged by other families.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from certify.case import Case
from certify.registry import check
from certify.subject import Subject
from zeitgeist.core.descriptors.backend import BACKEND_CLASSES, CAPABILITIES
from zeitgeist.core.descriptors.model import FAMILIES
from zeitgeist.core.errors import REGISTRY, RemoteProtocolError


def draw(case: Case, subject: Subject, count: int) -> list[int]:
    """count token ids of the model's vocabulary."""
    return [int(i) for i in case.rng("ids").integers(0, vocab(subject), count)]


def vocab(subject: Subject) -> int:
    """Vocabulary size of the loaded model."""
    return subject.model.config.vocab_size


@check(
    id="B.describe-complete",
    family="B",
    clause="I1: the report is complete after load",
    level="smoke",
    requirement=("I1", "A2"),
    expectation="every claim is a known word; libraries, context and batch are given",
)
def test_describe_complete(case: Case, subject: Subject) -> None:
    report = subject.describe()
    case.holds(
        "capabilities",
        set(report.capabilities) <= set(CAPABILITIES) and bool(report.capabilities),
        ", ".join(report.capabilities),
    )
    case.holds(
        "classes", set(report.classes) <= set(BACKEND_CLASSES) and bool(report.classes), ", ".join(report.classes)
    )
    case.holds("families", set(report.families) <= set(FAMILIES) and bool(report.families), ", ".join(report.families))
    case.holds(
        "libraries",
        bool(report.libraries) and all(l.version and l.digest for l in report.libraries),
        ", ".join(f"{l.name} {l.version}" for l in report.libraries),
    )
    case.holds(
        "limits",
        report.context_max > 0 and report.batch_max > 0,
        f"context_max {report.context_max}, batch_max {report.batch_max}",
    )
    cache = "cache_export" in report.capabilities or "cache_import" in report.capabilities
    case.holds(
        "cache_forms",
        bool(report.cache_forms) == cache,
        f"{len(report.cache_forms)} cache forms, {'claims' if cache else 'does not claim'} caches",
    )


@check(
    id="B.describe-stable",
    family="B",
    clause="I1: describe is cheap and has no side effect",
    level="smoke",
    requirement=("I1",),
    needs=("prefill",),
    expectation="the report is the same before and after work",
)
def test_describe_stable(case: Case, subject: Subject) -> None:
    before = subject.describe()
    session = subject.open()
    subject.prefill(session, draw(case, subject, 5))
    subject.close(session)
    case.exact("describe", str(subject.describe()), str(before))


@check(
    id="B.nonsense-capability-refused",
    family="B",
    clause="DESIGN §9: nonsense is refused before anything else",
    level="smoke",
    requirement=("I1", "W1"),
    expectation="unknown capabilities are refused by name",
)
def test_nonsense_capability_refused(case: Case, subject: Subject) -> None:
    source = random.Random(int(case.rng("words").integers(0, 2**31)))
    for _ in range(3):
        word = "".join(source.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(12))
        case.refuses(lambda word=word: subject.probe(word), "zg/backend/unsupported")


@check(
    id="B.unclaimed-capability-refused",
    family="B",
    clause="I1: what is not claimed is refused, never half done",
    level="smoke",
    requirement=("I1",),
    expectation="each capability is refused exactly when it is not claimed",
)
def test_unclaimed_capability_refused(case: Case, subject: Subject) -> None:
    claimed = subject.describe().capabilities
    for word in CAPABILITIES:
        if word in claimed:
            case.holds(word, bool(subject.probe(word)), "claimed and granted")
        else:
            case.refuses(lambda word=word: subject.probe(word), "zg/backend/unsupported")


@check(
    id="B.session-lifecycle",
    family="B",
    clause="I1: open, use, close",
    level="smoke",
    needs=("prefill",),
    requirement=("I1",),
    expectation="each open gives another session; closing one leaves the other as it was",
)
def test_session_lifecycle(case: Case, subject: Subject) -> None:
    ids = draw(case, subject, 6)
    first, second = subject.open(), subject.open()
    case.holds("sessions", first != second, f"sessions {first} and {second}")
    rows = subject.prefill(first, ids)
    case.exact("shape", list(rows.shape), [len(ids), vocab(subject)])
    case.holds("finite", bool(np.isfinite(rows).all()), "all logits are finite")
    subject.close(second)
    case.holds("still open", subject.prefill(first, ids[:1]).shape[0] == 1, "the other session goes on")
    subject.close(first)


@check(
    id="B.closed-session-refused",
    family="B",
    clause="I1: a closed session is refused afterwards",
    level="smoke",
    needs=("prefill",),
    requirement=("I1",),
    expectation="prefill and close of a closed session are refused",
)
def test_closed_session_refused(case: Case, subject: Subject) -> None:
    session = subject.open()
    subject.close(session)
    case.refuses(lambda: subject.prefill(session, [1]), "zg/backend/no-such-session")
    case.refuses(lambda: subject.close(session), "zg/backend/no-such-session")


@check(
    id="B.unknown-session-refused",
    family="B",
    clause="I1: a session that was never opened is refused",
    level="smoke",
    needs=("prefill",),
    requirement=("I1",),
    expectation="an invented session number is refused",
)
def test_unknown_session_refused(case: Case, subject: Subject) -> None:
    number = int(case.rng("number").integers(10**6, 10**9))
    case.refuses(lambda: subject.prefill(number, [1]), "zg/backend/no-such-session")


@check(
    id="B.truncate-growth-refused",
    family="B",
    clause="I1: truncate keeps the first n tokens; growing is refused",
    level="smoke",
    needs=("prefill", "truncate"),
    requirement=("I1",),
    expectation="truncating to more tokens than the session holds is refused, to fewer is done",
)
def test_truncate_growth_refused(case: Case, subject: Subject) -> None:
    ids = draw(case, subject, 5)
    session = subject.open()
    subject.prefill(session, ids)
    case.refuses(lambda: subject.truncate(session, 6), field="position_count")
    case.refuses(lambda: subject.truncate(session, -1), field="position_count")
    subject.truncate(session, 2)
    rows = subject.prefill(session, ids[2:])
    case.exact("rows after truncation", list(rows.shape), [3, vocab(subject)])
    subject.close(session)


@check(
    id="B.out-of-vocabulary-refused",
    family="B",
    clause="I1: ids come from the vocabulary",
    level="smoke",
    needs=("prefill",),
    requirement=("I1",),
    motive="engines index the embedding table unchecked: a wild id reads foreign memory or wraps",
    expectation="ids below 0 or at the vocabulary size and above are refused; the session stays usable",
)
def test_out_of_vocabulary_refused(case: Case, subject: Subject) -> None:
    session = subject.open()
    for wrong in (-1, vocab(subject), 2**31 - 1):
        case.refuses(lambda wrong=wrong: subject.prefill(session, [1, wrong]), field="ids")
    case.exact("rows after refusals", list(subject.prefill(session, [1, 2]).shape), [2, vocab(subject)])
    subject.close(session)


@check(
    id="B.context-overflow-refused",
    family="B",
    clause="I1: more tokens than context_max are refused",
    level="smoke",
    needs=("prefill",),
    requirement=("I1",),
    motive="some engines shift or overwrite the oldest entries without a word",
    expectation="a prefill past context_max is refused before it starts; the session stays usable",
)
def test_context_overflow_refused(case: Case, subject: Subject) -> None:
    limit = subject.describe().context_max
    session = subject.open()
    case.refuses(lambda: subject.prefill(session, [1] * (limit + 1), rows="last"), field="ids")
    case.exact("rows after the refusal", list(subject.prefill(session, [1, 2]).shape), [2, vocab(subject)])
    subject.close(session)


@check(
    id="B.empty-prefill-refused",
    family="B",
    clause="I1: a prefill appends at least one token",
    level="smoke",
    needs=("prefill",),
    requirement=("I1",),
    expectation="an empty prefill is refused",
)
def test_empty_prefill_refused(case: Case, subject: Subject) -> None:
    session = subject.open()
    case.refuses(lambda: subject.prefill(session, []), field="ids")
    subject.close(session)


@check(
    id="B.layer-range-outside-refused",
    family="B",
    clause="I1: a stage lies inside the model",
    level="smoke",
    needs=("layer_range",),
    requirement=("I1",),
    expectation="stages outside the layers, or empty, are refused",
)
def test_layer_range_outside_refused(case: Case, subject: Subject) -> None:
    layers = subject.model.config.layer_count
    for first, stop in ((0, layers + 1), (layers, layers), (1, 1), (-1, 1)):
        case.refuses(lambda first=first, stop=stop: subject.open(first, stop), field="layers")


@check(
    id="B.metrics-move",
    family="B",
    clause="I1: metrics count what was done",
    level="smoke",
    needs=("prefill", "metrics"),
    requirement=("I1",),
    expectation="tokens and open sessions are counted exactly",
)
def test_metrics_move(case: Case, subject: Subject) -> None:
    ids = draw(case, subject, 7)
    before = dict(subject.metrics())
    session = subject.open()
    subject.prefill(session, ids)
    during = dict(subject.metrics())
    subject.close(session)
    after = dict(subject.metrics())
    for name, delta in (("tokens_prefilled", len(ids)), ("sessions_open", 1)):
        case.holds(f"{name} is reported", name in before, ", ".join(sorted(before)))
        case.exact(name, during[name] - before[name], delta)
    case.exact("sessions_open after close", after["sessions_open"], before["sessions_open"])


@check(
    id="B.batched-decode-shape",
    family="B",
    clause="I1: one token for each session in one batch",
    level="smoke",
    needs=("prefill", "batched_decode"),
    requirement=("I1",),
    expectation="row i belongs to session i; a session twice in one batch is refused",
)
def test_batched_decode_shape(case: Case, subject: Subject) -> None:
    sessions = [subject.open() for _ in range(2)]
    for session in sessions:
        subject.prefill(session, draw(case, subject, 3))
    case.exact("rows", list(subject.decode(sessions, [1, 2]).shape), [2, vocab(subject)])
    case.refuses(lambda: subject.decode([sessions[0], sessions[0]], [1, 2]), field="sessions")
    case.refuses(lambda: subject.decode(sessions, [1]), field="sessions")
    for session in sessions:
        subject.close(session)


@check(
    id="B.fork-is-a-session",
    family="B",
    clause="I1: fork is an independent copy",
    level="smoke",
    needs=("prefill", "fork"),
    requirement=("I1",),
    expectation="a fork outlives its parent and continues from it",
)
def test_fork_is_a_session(case: Case, subject: Subject) -> None:
    parent = subject.open()
    subject.prefill(parent, draw(case, subject, 4))
    child = subject.fork(parent)
    case.holds("numbers", parent != child, f"parent {parent}, fork {child}")
    subject.close(parent)
    case.exact("rows of the fork", list(subject.prefill(child, [1, 2]).shape), [2, vocab(subject)])
    subject.close(child)


@check(
    id="B.errors-are-ours",
    family="B",
    clause="I1, A10: errors are mapped to the registry, in one line",
    level="smoke",
    needs=("prefill",),
    requirement=("I1", "A10"),
    expectation="a refusal has a registered id, names the field and fits on one line",
)
def test_errors_are_ours(case: Case, subject: Subject) -> None:
    session = subject.open()
    error = case.refuses(lambda: subject.prefill(session, [vocab(subject)]), field="ids")
    subject.close(session)
    case.holds("registered", error.id in REGISTRY, error.id)
    case.holds("one line", "\n" not in str(error) and len(str(error)) < 400, str(error))


@check(
    id="B.clean-shutdown",
    family="B",
    clause="I1, I13: shutdown is idempotent and ends the process",
    level="smoke",
    needs=("prefill",),
    requirement=("I1", "I13"),
    expectation="a child with an open session ends by itself with exit code 0; afterwards calls are refused",
)
def test_clean_shutdown(case: Case, start: Callable[[], Subject]) -> None:
    worker = start()
    worker.prefill(worker.open(), [1, 2, 3])
    worker.stop()
    worker.stop()
    case.exact("exit code", str(worker.child.exit_code()), "0")
    case.refuses(lambda: worker.open(), "zg/worker/closed")


@check(
    id="B.cancel",
    family="B",
    clause="I1: cancel takes at most one prefill chunk and leaves what was held",
    level="smoke",
    needs=("prefill", "cancel"),
    requirement=("I1",),
    expectation="a cancelled prefill ends with zg/backend/cancelled; the session holds what it held, and works",
)
def test_cancel(case: Case, subject: Subject) -> None:
    room = min(1024, subject.describe().context_max - 8)
    session = subject.open()
    subject.prefill(session, [1, 2])
    pending = subject.begin_prefill(session, draw(case, subject, room), chunk=1)
    pending.cancel()
    case.refuses(pending.result, "zg/backend/cancelled")
    case.exact("ids held", list(subject.session_info(session).ids), [1, 2])
    case.exact("rows afterwards", list(subject.prefill(session, [3]).shape), [1, vocab(subject)])
    subject.close(session)


@check(
    id="B.can-serve-own-model",
    family="B",
    clause="I1: can_serve says yes to what load accepts",
    level="smoke",
    requirement=("I1",),
    expectation="no reason against the model that is loaded",
)
def test_can_serve_own_model(case: Case, subject: Subject) -> None:
    case.exact("reasons", "; ".join(subject.serves(subject.path)), "")


@check(
    id="B.can-serve-nonsense-refused",
    family="B",
    clause="I1: a family that is not known is refused with reasons",
    level="smoke",
    requirement=("I1", "R3"),
    motive="an unknown architecture run as its nearest neighbour gives fluent nonsense",
    expectation="a model of a family that does not exist is refused, or has reasons against it",
)
def test_can_serve_nonsense_refused(case: Case, subject: Subject, tmp_path: Path) -> None:
    if not (subject.path / "config.json").is_file():
        case.info("the model is not a directory with a config.json to spoil")
        return
    for file in subject.path.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file.resolve())
    config = json.loads((subject.path / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "levitate", "architectures": ["LevitateForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        reasons = subject.serves(tmp_path)
    except RemoteProtocolError as error:
        case.holds("refused by name", "levitate" in str(error).lower(), str(error))
        return
    case.holds("reasons", bool(reasons), "; ".join(reasons) or "none: it would run a family that does not exist")
