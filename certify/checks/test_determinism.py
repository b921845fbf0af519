"""Family D: bitwise claims are tested bitwise; what is not claimed is measured and reported; sessions stay apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from certify import tolerance
from certify.case import Case
from certify.passages import cut
from certify.profile import Profile
from certify.registry import at_level, check
from certify.subject import Subject

Rows = NDArray[np.float32]


def invariance(
    case: Case, profile: Profile, subject: Subject, what: str, claimed: bool, pairs: Sequence[tuple[str, Rows, Rows]]
) -> None:
    """Bitwise when claimed; else bounded as cached against uncached, and reported as a property."""
    differing = [
        (name, tolerance.max_abs(wanted, found)) for name, found, wanted in pairs if found.tobytes() != wanted.tobytes()
    ]
    largest = max((distance for _, distance in differing), default=0.0)
    case.measured(f"largest difference of {what}", largest, "logit")
    if claimed:
        for name, found, wanted in pairs:
            case.exact(name, found, wanted)
        return
    if not differing:
        case.holds(what, True, "equal bit for bit, though not claimed")
        return
    case.finding(
        f"not-{what}",
        "property",
        f"{case.subject_name} is not {what.replace('-', ' ')}: {differing[0][0]} changes the logits",
        f"largest difference {largest:.1e} logit over {len(differing)} of {len(pairs)} cases",
        "not claimed, so not a failure",
    )
    about = subject.describe()
    if about.band in ("x32", "x16") and not about.activations:
        key = f"cache.uncached_{about.band}"
        case.within(what, largest, profile[key], key, "logit")
    case.info(f"not claimed; {len(differing)} of {len(pairs)} differ by at most {largest:.1e}")


@check(
    id="D.run-to-run",
    family="D",
    clause="A2: run_to_run is a claim of bitwise equality",
    level="smoke",
    needs=("prefill", "decode"),
    motive="Thinking Machines: 1,000 completions of one prompt, 80 unique",
    expectation="the same calls give the same bits, time after time",
)
@pytest.mark.parametrize(
    "repeats", [5, pytest.param(36, marks=at_level("standard")), pytest.param(299, marks=at_level("full"))]
)
def test_run_to_run(case: Case, subject: Subject, profile: Profile, model_path: Path, repeats: int) -> None:
    ids = cut(model_path, case.rng("ids"), 48)
    runs: list[Rows] = []
    for _ in range(repeats):
        session = subject.open()
        runs.append(
            np.concatenate([subject.prefill(session, ids[:40]), *(subject.decode([session], [i]) for i in ids[40:])])
        )
        subject.close(session)
    pairs = [(f"run {i}", run, runs[0]) for i, run in enumerate(runs[1:], 1)]
    invariance(case, profile, subject, "run-to-run-equal", subject.describe().run_to_run, pairs)
    case.seal("logits", runs[0])


@check(
    id="D.batch-invariance",
    family="D",
    clause="A2: batch_invariant is a claim of bitwise equality",
    level="smoke",
    needs=("prefill", "decode", "batched_decode"),
    motive="https://github.com/vllm-project/vllm/issues/51187",
    expectation="a sequence decoded beside 1, 3 or 7 others of the same length has the bits that it has alone",
)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_batch_invariance(case: Case, subject: Subject, profile: Profile, model_path: Path, size: int) -> None:
    batch(case, subject, profile, model_path, [40] * size)


@check(
    id="D.ragged-batch",
    family="D",
    clause="A2: batch_invariant is a claim of bitwise equality",
    needs=("prefill", "decode", "batched_decode"),
    motive="https://github.com/NVIDIA/TensorRT-LLM/issues/17964",
    expectation="the same in a batch of five lengths from 5 to 77",
)
def test_ragged_batch(case: Case, subject: Subject, profile: Profile, model_path: Path) -> None:
    batch(case, subject, profile, model_path, [5, 77, 23, 64, 41])


def batch(case: Case, subject: Subject, profile: Profile, model_path: Path, lengths: list[int]) -> None:
    """Four decode steps of sequences with these lengths, together and alone."""
    if len(lengths) > subject.describe().batch_max:
        return case.info(f"batch_max is {subject.describe().batch_max}")
    texts = [cut(model_path, case.rng(f"ids {i}"), length + 4) for i, length in enumerate(lengths)]
    sessions = [subject.open() for _ in texts]
    for session, ids in zip(sessions, texts, strict=True):
        subject.prefill(session, ids[:-4], rows="last")
    together = [subject.decode(sessions, [ids[step] for ids in texts]) for step in range(-4, 0)]
    for session in sessions:
        subject.close(session)
    pairs: list[tuple[str, Rows, Rows]] = []
    for row, ids in enumerate(texts):
        session = subject.open()
        subject.prefill(session, ids[:-4], rows="last")
        for step in range(4):
            pairs.append(
                (f"row {row} step {step}", together[step][row : row + 1], subject.decode([session], [ids[step - 4]]))
            )
        subject.close(session)
    return invariance(case, profile, subject, "batch-invariant", subject.describe().batch_invariant, pairs)


@check(
    id="D.chunk-invariance",
    family="D",
    clause="A2: chunk_invariant is a claim of bitwise equality",
    level="smoke",
    needs=("prefill",),
    motive="https://github.com/vllm-project/vllm/issues/4697",
    expectation="prefill in chunks of 1, 7, 16 and 64 has the bits of one prefill",
)
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_chunk_invariance(case: Case, subject: Subject, profile: Profile, model_path: Path, chunk: int) -> None:
    ids = cut(model_path, case.rng("ids"), 100)
    whole, parts = subject.open(), subject.open()
    wanted = subject.prefill(whole, ids)
    found = subject.prefill(parts, ids, chunk=chunk)
    subject.close(whole)
    subject.close(parts)
    invariance(
        case,
        profile,
        subject,
        "chunk-invariant",
        subject.describe().chunk_invariant,
        [(f"chunk {chunk}", found, wanted)],
    )


@check(
    id="D.sessions-are-apart",
    family="D",
    clause="I1: a session is touched by its own calls alone",
    level="smoke",
    needs=("prefill", "decode"),
    motive="https://github.com/waybarrios/vllm-mlx/issues/384",
    expectation="a session with another one at work in between has the bits that it has alone",
)
def test_sessions_are_apart(case: Case, subject: Subject, model_path: Path) -> None:
    mine, other = (cut(model_path, case.rng(name), 60) for name in ("mine", "other"))

    def run(disturb: bool) -> Rows:
        session = subject.open()
        rows = [subject.prefill(session, mine[:40])]
        neighbour = subject.open() if disturb else -1
        if disturb:
            subject.prefill(neighbour, other[:50])
        for i in range(40, 48):
            if disturb:
                subject.decode([neighbour], [other[i]])
            rows.append(subject.decode([session], [mine[i]]))
        if disturb:
            subject.close(neighbour)
        rows.append(subject.prefill(session, mine[48:]))
        subject.close(session)
        return np.concatenate(rows)

    alone = run(disturb=False)
    case.exact("disturbed", run(disturb=True), alone)
    case.exact("after the neighbour closed", run(disturb=False), alone)


@check(
    id="D.fork-is-a-copy",
    family="D",
    clause="I1: decoding a fork never changes the other, bitwise",
    level="smoke",
    needs=("prefill", "decode", "fork"),
    expectation="parent and fork go on as if the other did not exist",
)
def test_fork_is_a_copy(case: Case, subject: Subject, model_path: Path) -> None:
    ids, other = (cut(model_path, case.rng(name), 60) for name in ("ids", "other"))
    plain = subject.open()
    subject.prefill(plain, ids[:40])
    wanted = np.concatenate([subject.decode([plain], [i]) for i in ids[40:48]])
    parent = subject.open()
    subject.prefill(parent, ids[:40])
    child = subject.fork(parent)
    first = np.concatenate([subject.decode([child], [i]) for i in other[40:48]])
    case.exact(
        "the parent after the fork went another way",
        np.concatenate([subject.decode([parent], [i]) for i in ids[40:48]]),
        wanted,
    )
    again = subject.open()
    subject.prefill(again, ids[:40])
    case.exact("the fork", first, np.concatenate([subject.decode([again], [i]) for i in other[40:48]]))
    for session in (plain, parent, child, again):
        subject.close(session)


@check(
    id="D.truncate-forgets",
    family="D",
    clause="I1: truncate keeps the first n tokens, nothing of the rest",
    level="smoke",
    needs=("prefill", "truncate"),
    motive="https://github.com/vllm-project/vllm/issues/52234",
    expectation="a truncated session goes on like one that never held more",
)
def test_truncate_forgets(case: Case, subject: Subject, profile: Profile, model_path: Path) -> None:
    ids, other = (cut(model_path, case.rng(name), 64) for name in ("ids", "other"))
    cutback = subject.open()
    subject.prefill(cutback, [*ids[:32], *other[:32]])
    subject.truncate(cutback, 32)
    found = subject.prefill(cutback, ids[32:])
    plain = subject.open()
    subject.prefill(plain, ids[:32])
    wanted = subject.prefill(plain, ids[32:])
    subject.close(cutback)
    subject.close(plain)
    about = subject.describe()
    invariance(
        case,
        profile,
        subject,
        "truncate-exact",
        about.chunk_invariant and about.run_to_run,
        [("after truncate", found, wanted)],
    )


@check(
    id="D.batch-order",
    family="D",
    clause="I1: row i of a batch belongs to session i",
    needs=("prefill", "decode", "batched_decode"),
    motive="https://github.com/flashinfer-ai/flashinfer/pull/4861",
    expectation="a batch in another order gives the same rows in that order",
)
def test_batch_order(case: Case, subject: Subject, profile: Profile, model_path: Path) -> None:
    texts = [cut(model_path, case.rng(f"ids {i}"), 24) for i in range(4)]

    def run(order: Sequence[int]) -> Rows:
        sessions = {i: subject.open() for i in order}
        for i in order:
            subject.prefill(sessions[i], texts[i][:-1], rows="last")
        rows = subject.decode([sessions[i] for i in order], [texts[i][-1] for i in order])
        for session in sessions.values():
            subject.close(session)
        return rows[np.argsort(order)]

    invariance(
        case,
        profile,
        subject,
        "order-independent",
        subject.describe().batch_invariant,
        [("order 2 0 3 1", run([2, 0, 3, 1]), run([0, 1, 2, 3]))],
    )
