"""Family X: a cache that one engine made continues on another, in both directions, with a proof that it was used (D4).

The text is the same in every case of a run, so that each engine's own run and floor are measured once a process.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from certify import tolerance
from certify.cache_numbers import numbers, row_distance
from certify.case import Case
from certify.exchange import (
    CONTINUED,
    PREFILLED,
    Station,
    carry,
    continued,
    exchange_bounds,
    station,
)
from certify.geometry import GEOMETRIES, write_geometry
from certify.hostile import edited, with_zeroed_head
from certify.numerics import fidelity_limit
from certify.oracle import Oracle
from certify.plugin import Peers
from certify.registry import check
from certify.subject import Subject
from zeitgeist.host.workers import Worker

NEEDS = ("prefill", "decode", "cache_export", "cache_import")
ODD = next(geometry for geometry in GEOMETRIES if geometry.name == "llama-d64-kv1-gqa7-llama3")
NEEDS_PEERS = "no peers were given: --zg-peers names the engines to exchange with"
Stations = Callable[[str, Worker], Station]


def judge(case: Case, exporter: Station, importer: Station) -> None:
    """Measure one direction and compare; the exchange counts when the case holds."""
    carried = carry(exporter, importer, case.profile)
    name = f"{exporter.name} → {importer.name}"
    case.worst_row(carried.found, carried.expected)
    case.measured(f"{name}: floor", carried.floor, "logit")
    case.measured(f"{name}: bytes", carried.bytes_count, "B")
    case.measured(f"{name}: import", carried.import_ms, "ms")
    for bound in exchange_bounds(carried, case.profile):
        compare = case.at_least if bound.least else case.within
        compare(f"{name}: {bound.name}", bound.value, bound.limit, bound.source, bound.unit)
    if not carried.greedy_judged:
        case.measured(f"{name}: greedy tokens equal", carried.greedy, "tokens")
    case.measured(f"{name}: top-1 rows counted", carried.top1_rows)
    case.notes.append(f"{name}: {carried.greedy_text}")
    case.inconclusive_if(bool(carried.undecided), f"{name}: {carried.undecided}")
    case.seal(f"{name}: logits", carried.found)
    case.exchanged(exporter.name, importer.name)


@check(
    id="X.exports-to",
    family="X",
    clause="D4: prefill on the subject, decode on another engine",
    level="smoke",
    needs=NEEDS,
    requirement=("D4", "D2"),
    motive="https://github.com/vllm-project/vllm/issues/50622",
    expectation="the peer continues from the subject's cache as the oracle does from the same numbers; a poisoned twin "
    "moves its output as the oracle says",
)
def test_exports_to(case: Case, subject: Subject, peers: Peers, stations: Stations, peer: str) -> None:
    if not peer:
        case.skip(NEEDS_PEERS)
    judge(case, stations(case.subject_name, subject), stations(peer, peers[peer]))


@check(
    id="X.imports-from",
    family="X",
    clause="D4: prefill on another engine, decode on the subject",
    level="smoke",
    needs=NEEDS,
    requirement=("D4", "D2"),
    motive="https://github.com/LMCache/LMCache/issues/2942",
    expectation="the subject continues from the peer's cache as the oracle does from the same numbers; a poisoned twin "
    "moves its output as the oracle says",
)
def test_imports_from(case: Case, subject: Subject, peers: Peers, stations: Stations, peer: str) -> None:
    if not peer:
        case.skip(NEEDS_PEERS)
    judge(case, stations(peer, peers[peer]), stations(case.subject_name, subject))


@check(
    id="X.odd-geometry",
    family="X",
    clause="D4: the same with seven query heads to one key-value head of 64, llama3 rope",
    needs=NEEDS,
    requirement=("D4",),
    motive="https://github.com/ggml-org/llama.cpp/issues/21125",
    expectation="both directions hold on a shape where head order, scaling and a rotated quantised cache would show",
)
def test_odd_geometry(
    case: Case, subject: Subject, start: Callable[..., Subject], peers: Peers, tmp_path: Path
) -> None:
    engine = case.subject_name.partition(":")[0]
    foreign = [name for name in peers.names if name.partition(":")[0] != engine]
    if not foreign:
        case.skip(NEEDS_PEERS)
    path = write_geometry(ODD, case.seed, tmp_path / ODD.name)
    ids = [int(i) for i in case.rng("ids").integers(0, 512, PREFILLED + CONTINUED)]
    oracle = Oracle.open(path)
    ours = station(case.subject_name, start(model_path=path), oracle, ids)
    theirs = station(foreign[0], start(model_path=path, backend=foreign[0]), oracle, ids)
    judge(case, ours, theirs)
    judge(case, theirs, ours)


@check(
    id="X.one-zeroed-head",
    family="X",
    clause="issue §5: the suite must see one zeroed head of one token",
    level="smoke",
    needs=NEEDS,
    requirement=("D4", "W1"),
    motive="one head of one token moved logits by 5.7e-2, KL 5e-6 (feasibility §4)",
    expectation="K of one head of one token set to zero behind matching digests is seen elementwise; top-1 and KL "
    "see nothing",
)
def test_one_zeroed_head(case: Case, subject: Subject, stations: Stations) -> None:
    own = stations(case.subject_name, subject)
    truth = numbers(own.cache)
    expected = own.oracle.continue_from(truth, own.rest)
    position = quiet_position(own)
    found, held, _, _ = continued(own, with_zeroed_head(own.cache, position))
    logits, limit = tolerance.max_abs(expected, found), fidelity_limit(case.profile, expected, own.floor)
    row, where = row_distance(numbers(held), truth)
    band = case.profile[f"kv.row_{own.about.band}"]
    same, counted = tolerance.top1(expected, found, 0.0)
    divergence = tolerance.mean_kl(expected, found)
    case.measured("position", position)
    case.measured("mean KL", divergence, "nat")
    case.measured("top-1", same)
    case.measured("top-1 rows counted", counted)
    by_logits = logits > limit
    case.finding(
        "one-zeroed-head",
        "control",
        f"K of head 0 of token {position} set to zero in every layer behind matching digests: caught "
        + ("by logits and by numbers" if by_logits else "by numbers only: the receiver's rounding hides it in logits"),
        f"top-1 {same:.3f}, mean KL {divergence:.1e}; logits {logits:.1e} from the oracle, limit {limit:.1e}; {where}, "
        f"limit {band:.1e}",
        "elementwise fidelity, and the cache compared row by row",
    )
    case.at_least("row of the cache against the oracle's", row, band, f"kv.row_{own.about.band}", "relative L2")
    if own.about.band == "x32":
        case.at_least("logits against the oracle on the honest cache", logits, limit, "fidelity.ulp", "logit")


def quiet_position(own: Station) -> int:
    """The token whose zeroed key moves the last layers' output least, by the oracle: the hardest one to see."""
    moved: list[float] = []
    wanted = own.oracle.continue_from(numbers(own.cache), own.rest[:8])
    for position in range(8, PREFILLED, 16):
        changed = numbers(own.cache)
        changed.k = [rows.copy() for rows in changed.k]
        for rows in changed.k:
            rows[position, 0] = 0
        moved.append(tolerance.max_abs(wanted, own.oracle.continue_from(changed, own.rest[:8])))
    return range(8, PREFILLED, 16)[int(np.argmin(moved))]


@check(
    id="X.pairs-misdeclared",
    family="X",
    clause="D4: fidelity sees what admission cannot know",
    level="standard",
    needs=NEEDS,
    requirement=("D4", "W1"),
    motive="https://github.com/Blaizzy/mlx-vlm/pull/1710",
    expectation="a cache whose descriptor names the other rotary pairing is admitted, and seen at once by its numbers",
)
def test_pairs_misdeclared(case: Case, subject: Subject, stations: Stations) -> None:
    own = stations(case.subject_name, subject)
    other = "half" if own.cache.descriptor.form.pairing == "interleaved" else "interleaved"
    found, held, _, _ = continued(own, edited(own.data, {"form.pairing": other}))
    expected = own.oracle.continue_from(numbers(own.cache), own.rest)
    limit = fidelity_limit(case.profile, expected, own.floor)
    row, where = row_distance(numbers(held), numbers(own.cache))
    key = f"kv.row_{own.about.band}"
    far = tolerance.max_abs(expected, found)
    case.measured("logits against the oracle on the honest cache", far, "logit")
    case.measured("their limit", limit, "logit")
    case.at_least("row of the cache against the oracle's", row, case.profile[key], key, "relative L2")
    case.finding(
        "pairs-misdeclared",
        "control",
        "a cache that names the wrong rotary pairing passes every digest",
        f"logits {far:.1e} from the oracle, limit {limit:.1e}; {where}",
        "caught by fidelity and by rows of the cache",
    )
