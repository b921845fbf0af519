"""Levels (W1): the table (kind × level → families) of the profile applied to counts of verdicts, with the reasons
why not higher.

Law: a level is held when every family up to it holds. A family holds when at least one case is EXACT, PASS or
NON_STRICT
and no case FAILs, CRASHes, is SKIPPED or INCONCLUSIVE. Determinism is a flag, not a level (DESIGN §9).
Counts and exchanges are all that is needed, so that `verify` recomputes the level without records.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from certify.profile import Profile
from certify.verdict import CaseRecord, Exchange, Verdict
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.canonical import Record

__all__ = ["Claims", "Grade", "claims_of", "exchanges_of", "family_reasons", "foreign_engines", "grade", "meets"]

Counts = Mapping[str, Mapping[str, int]]

BANDS = ("q4", "q8", "x16", "x32")
"""From coarse to fine."""

GOOD = (Verdict.EXACT, Verdict.PASS, Verdict.NON_STRICT)


class Claims(Record, frozen=True, kw_only=True):
    """What a grade needs of the subject: kind, band and the claimed bitwise equalities."""

    kind: str
    engine: str
    band: str
    run_to_run: bool
    batch_invariant: bool
    chunk_invariant: bool


class Grade(Record, frozen=True, kw_only=True):
    """level `L4` or "" for none; text `L4-x32-S+rb`; why_not: reasons that the next level is not held."""

    level: str
    band: str
    assurance: Literal["S", "W", "R"]
    flags: str
    text: str
    why_not: tuple[str, ...]


def claims_of(descriptor: BackendDescriptor, kind: str = "backend") -> Claims:
    """The claims of a backend."""
    return Claims(
        kind=kind,
        engine=descriptor.name,
        band=descriptor.band,
        run_to_run=descriptor.run_to_run,
        batch_invariant=descriptor.batch_invariant,
        chunk_invariant=descriptor.chunk_invariant,
    )


def exchanges_of(records: Iterable[CaseRecord]) -> tuple[Exchange, ...]:
    """Every direction that a case that held has exercised, sorted, once."""
    found = {(e.exporter, e.importer) for record in records for e in record.exchanges if not record.verdict.blocks}
    return tuple(Exchange(exporter=exporter, importer=importer) for exporter, importer in sorted(found))


def family_reasons(counts: Counts, family: str) -> list[str]:
    """Why a family does not hold; empty when it does."""
    row = counts.get(family, {})
    if not row:
        return [f"family {family} did not run"]
    reasons = [
        f"family {family}: {row[verdict]} {verdict.value}"
        for verdict in Verdict
        if verdict.blocks and row.get(verdict.value)
    ]
    if not reasons and not any(row.get(verdict.value) for verdict in GOOD):
        reasons = [
            f"family {family}: nothing was shown to hold ({', '.join(f'{n} {v}' for v, n in sorted(row.items()))})"
        ]
    return reasons


def foreign_engines(exchanges: Iterable[Exchange], subject_engine: str) -> tuple[str, ...]:
    """Engines other than the subject's that caches went to and came from. Variants of one engine are not foreign."""
    out: set[str] = set()
    back: set[str] = set()
    for exchange in exchanges:
        exporter, importer = exchange.exporter.partition(":")[0], exchange.importer.partition(":")[0]
        if exporter == subject_engine != importer:
            out.add(importer)
        if importer == subject_engine != exporter:
            back.add(exporter)
    return tuple(sorted(out & back))


def level_reasons(level: str, families: Iterable[str], counts: Counts, foreign: int, profile: Profile) -> list[str]:
    """Why one row of the table does not hold."""
    reasons = [reason for family in families for reason in family_reasons(counts, family)]
    wanted = profile.foreign.get(level, 0)
    if not reasons and foreign < wanted:
        reasons = [f"{foreign} foreign engines in both directions, {wanted} are wanted"]
    return reasons


def grade(
    counts: Counts,
    exchanges: Iterable[Exchange],
    claims: Claims,
    profile: Profile,
    assurance: Literal["S", "W", "R"] = "S",
    admitted: bool = True,
) -> Grade:
    """The highest level held, and why not the next. A subject that was not admitted has none."""
    if claims.kind not in profile.levels:
        raise LocalProtocolError("zg/certify/bad-profile", f"no levels for kind {claims.kind!r}", "levels")
    foreign = len(foreign_engines(exchanges, claims.engine))
    held = ""
    reasons = [] if admitted else ["the subject is not admitted: it accepted nonsense"]
    for level, families in profile.levels[claims.kind] if admitted else ():
        reasons = level_reasons(level, families, counts, foreign, profile)
        if reasons:
            reasons = [f"{level}: {reason}" for reason in reasons]
            break
        held = level
    flags = determinism_flags(counts, claims)
    text = f"{held}-{claims.band}-{assurance}" + (f"+{flags}" if flags else "") if held else "none"
    return Grade(level=held, band=claims.band, assurance=assurance, flags=flags, text=text, why_not=tuple(reasons))


def determinism_flags(counts: Counts, claims: Claims) -> str:
    """r run-to-run, b batch-invariant, c chunk-invariant: claimed, and family D holds, which tests each claim."""
    if family_reasons(counts, "D"):
        return ""
    claimed = (("r", claims.run_to_run), ("b", claims.batch_invariant), ("c", claims.chunk_invariant))
    return "".join(flag for flag, claim in claimed if claim)


def meets(got: Grade, wanted: str, profile: Profile, kind: str = "backend") -> bool:
    """Does a grade meet `--require`: a level `L3` of the profile's table for the kind, or a level and band `L4-x32` (a
    finer band meets a coarser one)?"""
    level, _, band = wanted.partition("-")
    levels = [name for name, _ in profile.levels[kind]]
    if level not in levels or (band and band not in BANDS):
        text = f"got {wanted!r}, wanted {', '.join(levels)}, or with a band {levels[-1]}-{BANDS[-1]}"
        raise LocalProtocolError("zg/certify/usage", text, "require")
    enough = got.level in levels and levels.index(got.level) >= levels.index(level)
    return enough and (not band or BANDS.index(got.band) >= BANDS.index(band))
