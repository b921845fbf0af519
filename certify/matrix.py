"""The interop matrix: every ordered pair of some subjects, and pipelines, measured as family X does (D4, F8).

Law: one worker a subject, one text, the measurement of `certify/exchange.py`; a direction that is refused is a cell
with the reason, never a gap.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

from certify.exchange import Bound, Carried, Station, carry, exchange_bounds, exchange_ids, station
from certify.oracle import Oracle
from certify.pipelines import Piped, cuts_of, pipe, pipe_bounds
from certify.profile import Profile
from certify.subject import start_subject
from certify.verdict import MatrixCell, Verdict, real
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.kv import CacheForm
from zeitgeist.host.workers import WorkerFailed

__all__ = ["form_text", "measure"]

NEEDS = ("prefill", "decode", "cache_export", "cache_import")
Progress = Callable[[dict[str, Any]], None]


def measure(
    subjects: Sequence[str], model: Path, profile: Profile, seed: int, progress: Progress
) -> tuple[MatrixCell, ...]:
    """Cells of all ordered pairs, the diagonal included; then a pipeline of two for each ordered pair of different
    engines, and of three for the first three engines in each turn. progress: {"total"}, then {"case", "family",
    "verdict"} a cell. A subject that cannot be started raises what `start_subject` does."""
    oracle, ids = Oracle.open(model), exchange_ids(model, seed)
    with ExitStack() as stack:
        stations: dict[str, Station | None] = {}
        chains = pipelines_of(list(subjects))
        progress({"total": len(subjects) ** 2 + len(chains)})
        for name in subjects:
            worker = stack.enter_context(start_subject(name, "", model, profile["time.call_s"]))
            able = set(NEEDS) <= set(worker.describe().capabilities)
            stations[name] = station(name, worker, oracle, ids) if able else None
        cells: list[MatrixCell] = []
        for cell in measured_cells(stations, chains, profile):
            name = f"{cell.exporter} → {cell.importer}".removesuffix(" → ")
            progress({"case": name, "family": "X", "verdict": cell.verdict.value})
            cells.append(cell)
        return tuple(cells)


def pipelines_of(names: list[str]) -> list[tuple[str, ...]]:
    """Ordered pairs of different engines, and the orders of the first three engines."""
    engines: dict[str, str] = {}
    for name in names:
        engines.setdefault(name.partition(":")[0], name)
    first = list(engines.values())
    return [*permutations(first, 2), *permutations(first[-3:], 3)] if len(first) > 2 else list(permutations(first, 2))


def measured_cells(
    stations: Mapping[str, Station | None], chains: Sequence[tuple[str, ...]], profile: Profile
) -> Iterator[MatrixCell]:
    """Each cell when it is measured. None stands for a subject that does not claim what an exchange needs."""
    for name, exporter in stations.items():
        for other, importer in stations.items():
            if exporter is None or importer is None:
                yield unclaimed(name, other, "exchange")
                continue
            try:
                carried = carry(exporter, importer, profile)
            except ZeitgeistError as error:
                yield refused(name, other, form_text(exporter.about.cache_forms[0]), "exchange", error)
                continue
            yield exchange_cell(exporter, importer, carried, exchange_bounds(carried, profile))
    for chain in chains:
        members = [one for name in chain if (one := stations[name]) and "layer_range" in one.about.capabilities]
        if len(members) < len(chain):
            yield unclaimed(">".join(chain), "", "pipeline")
            continue
        cuts = cuts_of(members[0].cache.descriptor.layer_count, len(members))
        scenario = f"pipeline {' '.join(f'[{a}, {b})' for a, b in pairwise(cuts))}"
        try:
            piped = pipe(members, cuts, profile)
        except ZeitgeistError as error:
            yield refused(">".join(chain), "", "f32 hidden rows", scenario, error)
            continue
        yield pipeline_cell(chain, scenario, piped)


def form_text(form: CacheForm) -> str:
    """`f32 half`, `ggml_q8_0+H64 interleaved`."""
    sides = [(side.quant or side.dtype) + (f"+H{side.hadamard}" if side.hadamard else "") for side in (form.k, form.v)]
    return f"{sides[0] if sides[0] == sides[1] else '/'.join(sides)} {form.pairing}"


def verdict_of(bounds: Sequence[Bound], exact: bool, undecided: str = "") -> tuple[Verdict, str]:
    """FAIL with every bound that does not hold; INCONCLUSIVE with why; EXACT where not a bit is lost; else PASS."""
    failed = [bound.text for bound in bounds if not bound.holds]
    if failed:
        return Verdict.FAIL, "; ".join(failed)
    if undecided:
        return Verdict.INCONCLUSIVE, undecided
    return (Verdict.EXACT if exact else Verdict.PASS), ""


def exchange_cell(exporter: Station, importer: Station, carried: Carried, bounds: Sequence[Bound]) -> MatrixCell:
    """One direction as it stands in the report."""
    verdict, failed = verdict_of(bounds, exact=carried.loss == 0, undecided=carried.undecided)
    source, target = (form_text(one.about.cache_forms[0]) for one in (exporter, importer))
    return MatrixCell(
        exporter=exporter.name,
        importer=importer.name,
        form=source if source == target else f"{source} → {target}",
        scenario="exchange",
        fidelity=real(carried.fidelity),
        fidelity_limit=real(bounds[0].limit),
        loss=real(carried.loss),
        loss_limit=real(carried.loss_limit),
        poison=real(carried.poison),
        verdict=verdict,
        detail=failed
        or f"{carried.mode}, {carried.bytes_count / 1000:.0f} kB, mean KL {carried.kl:.1e}, "
        f"{carried.greedy_text}, {'' if carried.top1_rows else 'top-1 not judged, '}"
        f"export {exporter.export_ms:.1f}, import {carried.import_ms:.1f} ms",
        mode=carried.mode,
        kl=real(carried.kl),
        top1=real(carried.top1) if carried.top1_rows else "",
        bytes_count=carried.bytes_count,
        export_ms=real(round(exporter.export_ms, 3)),
        import_ms=real(round(carried.import_ms, 3)),
    )


def pipeline_cell(chain: Sequence[str], scenario: str, piped: Piped) -> MatrixCell:
    """One pipeline as it stands in the report."""
    verdict, failed = verdict_of(pipe_bounds(piped), exact=piped.loss == 0)
    return MatrixCell(
        exporter=">".join(chain),
        importer="",
        form="f32 hidden rows",
        scenario=scenario,
        fidelity=real(piped.fidelity),
        fidelity_limit=real(piped.fidelity_limit),
        loss=real(piped.loss),
        loss_limit=real(piped.loss_limit),
        poison="",
        verdict=verdict,
        detail=failed or f"mean KL {piped.kl:.1e}",
        kl=real(piped.kl),
    )


def unclaimed(exporter: str, importer: str, scenario: str) -> MatrixCell:
    """A cell of subjects of which one does not claim what it takes."""
    needed = ", ".join((*NEEDS, "layer_range")[: 4 if importer else 5])
    return empty(exporter, importer, "", scenario, Verdict.UNSUPPORTED, f"not claimed by both: {needed}")


def refused(exporter: str, importer: str, form: str, scenario: str, error: ZeitgeistError) -> MatrixCell:
    """A direction that does not exist, and why. A worker that died is a crash, not a refusal."""
    unable = error.id in ("zg/backend/unsupported", "zg/convert/no-path")
    verdict = Verdict.CRASH if isinstance(error, WorkerFailed) else Verdict.UNSUPPORTED if unable else Verdict.FAIL
    return empty(exporter, importer, form, scenario, verdict, str(error))


def empty(exporter: str, importer: str, form: str, scenario: str, verdict: Verdict, detail: str) -> MatrixCell:
    """A cell without numbers."""
    return MatrixCell(
        exporter=exporter,
        importer=importer,
        form=form,
        scenario=scenario,
        fidelity="",
        fidelity_limit="",
        loss="",
        loss_limit="",
        poison="",
        verdict=verdict,
        detail=detail,
        mode="refused",
    )
