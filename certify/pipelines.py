"""Mixed-engine pipelines: one model's layers split over several subjects, against the oracle and solo runs (F8).

Hidden rows travel in float32. Each stage keeps its own cache; 96 tokens are prefilled and 16 decoded, teacher-forced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certify import tolerance
from certify.exchange import PIPED, PREFILLED, Bound, Station, loss_allowed, loss_key, worst_band
from certify.numerics import fidelity_limit
from certify.profile import Profile
from zeitgeist.host.workers import Worker

__all__ = ["Piped", "cuts_of", "pipe", "pipe_bounds", "run_pipeline"]

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Piped:
    """One pipeline, measured. fidelity: against the oracle, with each stage's declared losses; loss: against the
    farthest of its members' own uninterrupted runs; logits of all 112 positions."""

    rows: Rows
    fidelity: float
    fidelity_limit: float
    loss: float
    loss_limit: float
    kl: float
    source: str


def cuts_of(layer_count: int, stages: int) -> tuple[int, ...]:
    """Layers split as evenly as they go: (0, 3, 6), (0, 2, 4, 6)."""
    return tuple(round(i * layer_count / stages) for i in range(stages + 1))


def run_pipeline(workers: Sequence[Worker], cuts: Sequence[int], ids: Sequence[int]) -> Rows:
    """Logits of ids through workers[i] on layers [cuts[i], cuts[i + 1]): a prefill, then one token at a time."""
    sessions = [worker.open(cuts[i], cuts[i + 1]) for i, worker in enumerate(workers)]
    rows: list[Rows] = []
    for part in (list(ids[:PREFILLED]), *([id] for id in ids[PREFILLED:])):
        x = workers[0].forward_range(sessions[0], part)
        for worker, session in zip(workers[1:], sessions[1:], strict=True):
            x = worker.forward_range(session, x, part)
        rows.append(x)
    for worker, session in zip(workers, sessions, strict=True):
        worker.close(session)
    return np.concatenate(rows)


def pipe(stations: Sequence[Station], cuts: Sequence[int], profile: Profile) -> Piped:
    """Run and measure a pipeline over stations of one text."""
    ids = stations[0].ids[: PREFILLED + PIPED]
    rows = run_pipeline([one.worker for one in stations], cuts, ids)
    expected = stations[0].oracle.run(ids, stop=cuts[1])
    for i, one in enumerate(stations[1:], 1):
        expected = one.oracle.run(hidden=expected, first=cuts[i], stop=cuts[i + 1])
    solos = [one.steps for one in {one.name: one for one in stations}.values()]
    band = max((worst_band(one, one) for one in stations), key=("x32", "x16", "q8", "q4").index)
    source = "pipeline.loss_x32" if band == "x32" else loss_key(band)
    limit = (
        max(profile[source], *(loss_allowed(one, one, profile) for one in stations))
        if band != "x32"
        else profile[source]
    )
    return Piped(
        rows=rows,
        fidelity=tolerance.max_abs(expected, rows),
        fidelity_limit=fidelity_limit(profile, expected, max(one.floor for one in stations)),
        loss=max(tolerance.max_abs(solo, rows) for solo in solos),
        loss_limit=limit,
        kl=tolerance.mean_kl(expected, rows),
        source=source,
    )


def pipe_bounds(piped: Piped) -> tuple[Bound, ...]:
    """What a pipeline must satisfy."""
    return (
        Bound("fidelity", piped.fidelity, piped.fidelity_limit, "fidelity.ulp", "logit"),
        Bound("loss", piped.loss, piped.loss_limit, piped.source, "logit"),
    )
