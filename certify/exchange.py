"""How an exchange is measured: one subject prefills, another continues, the oracle says what is right (D4).

Two numbers: *fidelity* is the receiver against the oracle that continues from the same dequantised cache; *loss* is
that cache against the receiver's own uninterrupted run. A number counts only with proof of use: a poisoned twin of the
cache must move the output, and as the oracle says. The checks of family X and the matrix share what stands here.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from certify import tolerance
from certify.cache_cases import filled, teacher_forced
from certify.cache_numbers import form_band, numbers, rounding_excess
from certify.hostile import poisoned
from certify.numerics import angle_floor, fidelity_limit, oracle_like
from certify.oracle import Oracle, OracleCache
from certify.passages import cut
from certify.profile import Profile
from zeitgeist.convert import kv_file
from zeitgeist.convert.kv import KVCache
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.host.workers import Worker

__all__ = [
    "CONTINUED",
    "DECODED",
    "GREEDY",
    "PIPED",
    "PREFILLED",
    "Bound",
    "Carried",
    "Station",
    "carry",
    "exchange_bounds",
    "exchange_ids",
    "loss_allowed",
    "loss_key",
    "station",
    "worst_band",
]

Rows = NDArray[np.float32]
F64 = NDArray[np.float64]
PREFILLED, CONTINUED, DECODED, GREEDY, PIPED = 96, 51, 8, 16, 16
"""Tokens prefilled by the exporter; continued by the importer, the first of them decoded; greedy steps; steps
of a pipeline. The research note's own trial had 96 and 51."""
NOISE = 2.0**-16
"""256 u, band C of float32 rows (research note, conformance §3.4): ten and more times what honest engines differ by, so
that a rounding that they may tip is tipped here first."""
GREEDY_MIN = 4
"""Fewer greedy tokens before a near-tie say nothing: one token of the 512 is guessed often, four are not."""
TWINS = 4
"""Runs of the oracle with noise for each cache that is continued."""
BANDS = ("x32", "x16", "q8", "q4")


@dataclass(frozen=True)
class Bound:
    """One comparison: value at most limit, or at least where `least`. source: key of the profile."""

    name: str
    value: float
    limit: float
    source: str
    unit: str
    least: bool = False

    @property
    def holds(self) -> bool:
        """NaN never holds."""
        return self.value >= self.limit if self.least else self.value <= self.limit

    @property
    def text(self) -> str:
        """For people: what is off, and by how much."""
        word = "below" if self.least else "above"
        return f"{self.name} is {self.value:.3g} {self.unit}".rstrip() + f", {word} {self.limit:.3g} ({self.source})"


@dataclass
class Station:
    """One subject on one text: its own uninterrupted run, its noise floor, and its cache after the prefix.

    oracle: with the losses that the subject declares; solo: logits of the continued tokens; floor: the worst of its
    repeat, its chunkings, its distance to the oracle on the same tokens, what float32 angles cost, and where the cache
    is lossy how far honest noise tips its rounding, in logits;
    cost: what the declared rounding alone costs on these tokens, by the oracle with it and the oracle without.
    """

    name: str
    worker: Worker
    about: BackendDescriptor
    oracle: Oracle
    ids: list[int]
    solo: Rows
    floor: float
    cost: float
    data: bytes
    export_ms: float

    @property
    def prefix(self) -> list[int]:
        """The tokens that a cache holds."""
        return self.ids[:PREFILLED]

    @property
    def rest(self) -> list[int]:
        """The tokens that are continued."""
        return self.ids[PREFILLED:]

    @cached_property
    def cache(self) -> KVCache:
        """What the subject exports."""
        return kv_file.load(self.data)

    @cached_property
    def poison(self) -> bytes:
        """The poisoned twin."""
        return poisoned(self.cache)

    @cached_property
    def steps(self) -> Rows:
        """Logits of prefix and the next 16 tokens, decoded one by one, by the subject alone."""
        session = self.worker.open()
        rows = [self.worker.prefill(session, self.prefix)]
        rows += [self.worker.decode([session], [id]) for id in self.rest[:PIPED]]
        self.worker.close(session)
        return np.concatenate(rows)

    @cached_property
    def greedy(self) -> tuple[list[int], list[float]]:
        """(tokens, margin of each) that the subject goes on with by itself."""
        session = filled(self.worker, self.prefix)
        found = greedy_walk(self.worker, session, self.rest[0])
        self.worker.close(session)
        return found


def exchange_ids(model: Path, seed: int) -> list[int]:
    """The text of all exchanges of a run: PREFILLED + CONTINUED ids. One text, so that a subject is measured once."""
    key = hashlib.sha256(f"{seed}\0exchange".encode()).digest()[:16]
    source = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return cut(model, source, PREFILLED + CONTINUED)


def station(name: str, worker: Worker, oracle: Oracle, ids: list[int]) -> Station:
    """Measure one subject alone: four ways of chunking, one repeat, one export."""
    about, prefix, rest = worker.describe(), ids[:PREFILLED], ids[PREFILLED:]
    like = oracle_like(oracle, about)
    runs: list[Rows] = []
    data, export_ms = b"", 0.0
    for chunk in (0, 0, 16, 64):
        session = filled(worker, prefix, chunk=chunk)
        if not data:
            started = time.perf_counter()
            data = bytes(worker.export_cache(session))
            export_ms = (time.perf_counter() - started) * 1e3
        runs.append(teacher_forced(worker, session, rest, DECODED))
        worker.close(session)
    session = worker.open()
    runs.append(worker.prefill(session, ids)[PREFILLED:])
    worker.close(session)
    expected = like.logits(ids)[PREFILLED:]
    own = numbers(kv_file.load(data))
    angles = angle_floor(like, ids, expected).absolute
    floor = max(
        tolerance.noise_floor(runs),
        tolerance.max_abs(expected, runs[0]),
        angles,
        tipping_floor(like, own, rest, like.continue_from(own, rest)),
    )
    cost = tolerance.max_abs(oracle.logits(ids)[PREFILLED:], expected)
    return Station(name, worker, about, like, ids, runs[0], floor, cost, data, export_ms)


def tipping_floor(oracle: Oracle, cache: OracleCache, rest: Sequence[int], wanted: F64) -> float:
    """How far a lossy cache parts two honest engines: rounding is chaotic, and noise of NOISE tips it now and then.

    wanted: the oracle's rows from the cache itself; it continues from TWINS of the cache with that noise. 0 for a
    float32 cache. A property of text and rounding, not of the engine under test.
    """
    if not oracle.options.kv_round:
        return 0.0
    worst = 0.0
    source = np.random.Generator(np.random.Philox(key=len(rest)))
    for _ in range(TWINS):
        sides = [
            [rows * (1 + NOISE * source.standard_normal(rows.shape)) for rows in side] for side in (cache.k, cache.v)
        ]
        worst = max(worst, tolerance.max_abs(wanted, oracle.continue_from(OracleCache(*sides), rest)))
    return worst


@dataclass(frozen=True)
class Carried:
    """One direction, measured. Distances in logits; expected: the oracle's rows; found: the importer's.

    excess: the largest move of a number of the cache, in units of honest rounding; poison: how far the poisoned twin
    moved the output; poison_fidelity: the importer on the twin against the oracle on the twin; top1: NaN where
    top1_rows, the rows that counted, is 0; greedy: tokens equal before the first difference, or GREEDY; greedy_tie:
    that difference is between candidates closer than the loss allows, so that nothing after it was compared.
    """

    mode: str
    band: str
    found: Rows
    expected: F64
    floor: float
    fidelity: float
    loss: float
    loss_limit: float
    kl: float
    top1: float
    top1_rows: int
    excess: float
    poison: float
    poison_fidelity: float
    greedy: int
    greedy_tie: bool
    bytes_count: int
    import_ms: float

    @property
    def greedy_judged(self) -> bool:
        """Enough tokens were compared, or one differs that may not."""
        return not self.greedy_tie or self.greedy >= GREEDY_MIN

    @property
    def undecided(self) -> str:
        """Why the direction is neither right nor wrong, in words; "" where it is decided.

        A coarse cache widens the near-ties until a short walk is to be expected: there it is information.
        """
        return "" if self.greedy_judged or self.band not in ("x32", "x16") else self.greedy_text

    @property
    def greedy_text(self) -> str:
        """For people: `16 of 16 greedy tokens equal`, or how many before a near-tie."""
        tie = ", then a near-tie" if self.greedy_tie else ""
        few = "" if self.greedy_judged else ": too few to judge, information only"
        return f"{self.greedy} of {GREEDY} greedy tokens equal{tie}{few}"


def greedy_walk(worker: Worker, session: int, first: int) -> tuple[list[int], list[float]]:
    """(ids, margins): GREEDY tokens of largest logit after first; margin: distance of the two best candidates."""
    ids, margins = [first], list[float]()
    for _ in range(GREEDY):
        row = worker.decode([session], [ids[-1]])[0]
        best = np.partition(row, -2)[-2:]
        margins.append(float(best[1]) - float(best[0]))
        ids.append(int(row.argmax()))
    return ids[1:], margins


def continued(importer: Station, data: bytes) -> tuple[Rows, KVCache, float, str]:
    """(rows of the rest, the cache the importer holds, milliseconds of the import, its report) from a cache's file."""
    worker = importer.worker
    started = time.perf_counter()
    imported = worker.import_cache(data, importer.prefix)
    import_ms = (time.perf_counter() - started) * 1e3
    held = kv_file.load(bytes(worker.export_cache(imported.session)))
    rows = teacher_forced(worker, imported.session, importer.rest, DECODED)
    worker.close(imported.session)
    return rows, held, import_ms, imported.report


def worst_band(exporter: Station, importer: Station) -> str:
    """The coarsest of both engines and both forms: the band that the loss is judged in."""
    forms = (exporter.about.cache_forms[0], importer.about.cache_forms[0])
    return max([exporter.about.band, importer.about.band, *map(form_band, forms)], key=BANDS.index)


def loss_key(band: str) -> str:
    """Key of the loss band."""
    return f"exchange.loss_{band}"


def loss_allowed(exporter: Station, importer: Station, profile: Profile) -> float:
    """The loss band of the coarser of both, or twice what the declared rounding costs on this text if that is more.

    Bands are of one model; a model with peaked logits loses more to the same rounding, and the oracle says how much.
    """
    cost = profile["numerics.floor_factor"] * max(exporter.cost, importer.cost)
    return max(profile[loss_key(worst_band(exporter, importer))], cost)


def carry(exporter: Station, importer: Station, profile: Profile) -> Carried:
    """exporter prefilled, importer continues. Errors: what the importer refuses, a worker that failed."""
    found, held, import_ms, report = continued(importer, exporter.data)
    expected = importer.oracle.continue_from(numbers(held), importer.rest)
    twin, twin_held, _, _ = continued(importer, exporter.poison)
    twin_expected = importer.oracle.continue_from(numbers(twin_held), importer.rest)
    tipping = max(
        tipping_floor(importer.oracle, numbers(one), importer.rest, wanted)
        for one, wanted in ((held, expected), (twin_held, twin_expected))
    )
    band = worst_band(exporter, importer)
    loss_limit = loss_allowed(exporter, importer, profile)
    near = profile[f"numerics.near_tie_{band}"]
    top1, top1_rows = tolerance.top1(importer.solo, found, near)
    greedy, greedy_tie = greedy_steps(exporter, importer, 2 * loss_limit)
    excess = max(rounding_excess(held, exporter.cache), rounding_excess(twin_held, kv_file.load(exporter.poison)))
    return Carried(
        mode="conversion" if report else "native",
        band=band,
        found=found,
        expected=expected,
        floor=max(importer.floor, tipping),
        fidelity=tolerance.max_abs(expected, found),
        loss=tolerance.max_abs(importer.solo, found),
        loss_limit=loss_limit,
        kl=tolerance.mean_kl(importer.solo, found),
        top1=top1,
        top1_rows=top1_rows,
        excess=excess,
        poison=tolerance.max_abs(found, twin),
        poison_fidelity=tolerance.max_abs(twin_expected, twin),
        greedy=greedy,
        greedy_tie=greedy_tie,
        bytes_count=len(exporter.data),
        import_ms=import_ms,
    )


def greedy_steps(exporter: Station, importer: Station, near: float) -> tuple[int, bool]:
    """(tokens equal before the first difference, whether that one is between candidates closer than near)."""
    session = importer.worker.import_cache(exporter.data, importer.prefix).session
    ids, _ = greedy_walk(importer.worker, session, importer.rest[0])
    importer.worker.close(session)
    wanted, margins = importer.greedy
    for step, (got, right) in enumerate(zip(ids, wanted, strict=True)):
        if got != right:
            return step, margins[step] <= near
    return GREEDY, False


def exchange_bounds(carried: Carried, profile: Profile) -> Sequence[Bound]:
    """What a direction must satisfy, each with the key of the profile that its limit comes from.

    Top-1 without a counted row and a greedy walk that is too short are not judged: they are no bounds.
    """
    band, limit = carried.band, fidelity_limit(profile, carried.expected, carried.floor)
    kld = "exchange.kld_lossless" if band == "x32" else f"numerics.kld_{band}"
    bounds = [
        Bound("fidelity", carried.fidelity, limit, "fidelity.ulp", "logit"),
        Bound("loss", carried.loss, carried.loss_limit, loss_key(band), "logit"),
        Bound("mean KL", carried.kl, profile[kld], kld, "nat"),
        Bound(
            "numbers held against numbers sent",
            carried.excess,
            profile["exchange.rounding"],
            "exchange.rounding",
            "x honest rounding",
        ),
        Bound(
            "poisoned twin moves the output",
            carried.poison,
            profile["exchange.poison"],
            "exchange.poison",
            "logit",
            least=True,
        ),
        Bound("poisoned twin as the oracle says", carried.poison_fidelity, limit, "fidelity.ulp", "logit"),
    ]
    if carried.top1_rows:
        key = f"numerics.top1_{band}"
        bounds.append(Bound("top-1", carried.top1, profile[key], key, "", least=True))
    if carried.greedy_judged:
        compared = carried.greedy if carried.greedy_tie else GREEDY
        bounds.append(Bound("greedy tokens equal", carried.greedy, compared, "exchange.greedy", "tokens", least=True))
    return bounds
