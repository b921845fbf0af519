"""Family G: the same questions on other shapes, made from the seed: bugs hide in geometry.

When a row is wrong the check looks for the cause among known mistakes of configuration: the report names a bug.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from certify import tolerance
from certify.case import Case
from certify.geometry import GEOMETRIES, Geometry, write_geometry
from certify.numerics import fidelity_limit, judge_logits, oracle_like
from certify.oracle import Oracle
from certify.registry import at_level, check
from certify.subject import Subject
from zeitgeist.backends.registry import list_subjects

SMOKE = ("llama-d64-kv1-gqa4-tied-theta500k",)
CHOICES = [
    pytest.param(g, id=g.name) if g.name in SMOKE else pytest.param(g, id=g.name, marks=at_level("standard"))
    for g in GEOMETRIES
]

Rows = NDArray[np.float32]
Start = Callable[..., Subject]


@pytest.fixture(scope="session")
def geometry_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this process writes geometry models."""
    return tmp_path_factory.mktemp("geometry")


def written(geometry: Geometry, seed: int, directory: Path) -> Path:
    """The model's directory, written once a process."""
    path = directory / geometry.name
    return path if path.exists() else write_geometry(geometry, seed, path)


def diagnose(case: Case, geometry: Geometry, found: Rows, ids: list[int], worker: Subject, handled: str = "") -> None:
    """Report the known mistake that explains the rows, if one does. handled: how an adapter copes with it."""
    if geometry.theta == "10000.0":
        return
    oracle, about = Oracle.open(worker.path), worker.describe()
    expected = oracle_like(oracle.with_theta(10000.0), about).logits(ids)
    distance = tolerance.max_abs(expected, found)
    if distance <= case.profile["fidelity.floor_factor"] * fidelity_limit(case.profile, expected):
        case.finding(
            "rope-theta-ignored",
            "defect",
            f"{worker.name} {about.version} ignores rope_parameters.rope_theta, uses 10,000 (model: {geometry.theta})",
            f"on {geometry.name} its logits are {distance:.1e} from the oracle with base 10,000 and "
            f"{tolerance.max_abs(oracle.logits(ids), found):.1f} from the oracle with the model's own",
            handled,
        )


@check(
    id="G.logits",
    family="G",
    clause="DESIGN §9: logits stay in the band on every geometry",
    level="smoke",
    needs=("prefill", "decode"),
    requirement=("I1",),
    motive="https://github.com/Blaizzy/mlx-vlm/pull/1710",
    expectation="96 prefilled and 8 decoded rows are the oracle's within the band",
)
@pytest.mark.parametrize("geometry", CHOICES)
def test_logits(case: Case, subject: Subject, start: Start, geometry: Geometry, geometry_dir: Path) -> None:
    if geometry.family not in subject.describe().families:
        return case.info(f"family {geometry.family} is not claimed")
    path = written(geometry, case.seed, geometry_dir)
    if reasons := subject.serves(path):
        return case.info(f"refused before loading: {'; '.join(reasons)}")
    ids = [int(i) for i in case.rng("ids").integers(0, 512, 104)]
    worker = start(model_path=path)
    session = worker.open()
    rows = [worker.prefill(session, ids[:96]), *(worker.decode([session], [id]) for id in ids[96:])]
    found = np.concatenate(rows)
    diagnose(case, geometry, found, ids, worker)
    return judge_logits(case, Oracle.open(path), worker.describe(), found, ids)


@check(
    id="G.published-engine",
    family="G",
    clause="DESIGN §9: what an adapter works around is shown on the engine as published",
    needs=("prefill",),
    requirement=("I5",),
    motive="https://github.com/Blaizzy/mlx-vlm/pull/1710",
    expectation="a defect that the adapter claims to handle is seen on the raw engine, and not on the adapter",
)
def test_published_engine(case: Case, subject: Subject, start: Start, geometry_dir: Path) -> None:
    raw = f"{subject.describe().name}:raw"
    if not subject.describe().handled or raw not in {s.name for s in list_subjects()} or subject.name == raw:
        return case.info("nothing is claimed to be handled against a raw variant")
    geometry = GEOMETRIES[0]
    path = written(geometry, case.seed, geometry_dir)
    ids = [int(i) for i in case.rng("ids").integers(0, 512, 96)]
    found: dict[str, Rows] = {}
    for worker in (start(model_path=path), start(model_path=path, backend=raw)):
        found[worker.name] = worker.prefill(worker.open(), ids)
        diagnose(case, geometry, found[worker.name], ids, worker, f"{subject.name} gives it a corrected configuration")
    findings = [f.statement for f in case.findings]
    case.holds("the raw engine shows it", len(findings) == 1 and findings[0].startswith(raw), "; ".join(findings))
    oracle = Oracle.open(path)
    return judge_logits(case, oracle, subject.describe(), found[subject.name], ids)


@check(
    id="G.boundaries",
    family="G",
    clause="DESIGN §9: nothing breaks at block edges",
    needs=("prefill", "decode"),
    motive="https://github.com/sgl-project/sglang/issues/25790",
    expectation="decoding across positions 31–33, 63–65, 127–129, 255–257 and 511–513 gives the oracle's rows",
)
@pytest.mark.parametrize("edge", [32, 64, 128, 256, 512])
def test_boundaries(case: Case, subject: Subject, oracle: Oracle, edge: int) -> None:
    ids = [int(i) for i in case.rng("ids").integers(0, oracle.config.vocab_size, edge + 3)]
    session = subject.open()
    subject.prefill(session, ids[: edge - 2], rows="last")
    found = np.concatenate([subject.decode([session], [id]) for id in ids[edge - 2 :]])
    subject.close(session)
    judge_logits(case, oracle, subject.describe(), found, ids)
