"""Family G: the same questions on other shapes, made from the seed: bugs hide in geometry.

When a row is wrong the check looks for the cause among known mistakes of configuration, so that the report names a bug, not a number.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from certify import tolerance
from certify.case import Case
from certify.geometry import GEOMETRIES, Geometry, write_geometry
from certify.numerics import fidelity_limit, judge_logits, oracle_like
from certify.oracle import Oracle
from certify.registry import at_level, check
from zeitgeist.host.workers import Worker

SMOKE = ("llama-d64-kv1-gqa4-tied-theta500k",)
CHOICES = [pytest.param(g, id=g.name) if g.name in SMOKE else pytest.param(g, id=g.name, marks=at_level("standard"))
           for g in GEOMETRIES]

Start = Callable[..., Worker]


@pytest.fixture(scope="session")
def geometry_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this process writes geometry models."""
    return tmp_path_factory.mktemp("geometry")


def written(geometry: Geometry, seed: int, directory: Path) -> Path:
    """The model's directory, written once a process."""
    path = directory / geometry.name
    return path if path.exists() else write_geometry(geometry, seed, path)


def diagnose(case: Case, oracle: Oracle, geometry: Geometry, found: np.ndarray, ids: list[int], worker: Worker) -> None:
    """Report the known mistake that explains the rows, if one does."""
    if geometry.theta == "10000.0":
        return
    about = worker.describe()
    other = oracle_like(oracle.with_theta(10000.0), about)
    expected = other.logits(ids)
    distance = tolerance.max_abs(expected, found)
    if distance <= 4 * fidelity_limit(case.profile, expected):
        case.finding("rope-theta-ignored", "defect",
                     f"{case.subject_name} {about.version} ignores rope_parameters.rope_theta = {geometry.theta} and uses 10,000",
                     f"on {geometry.name} its logits are {distance:.1e} from the oracle with base 10,000 and "
                     f"{tolerance.max_abs(oracle.logits(ids), found):.1f} from the oracle with the model's own")


@check(id="G.logits", family="G", clause="DESIGN §9: logits stay in the band on every geometry", level="smoke",
       needs=("prefill", "decode"), requirement=("I1",), motive="https://github.com/Blaizzy/mlx-vlm/pull/1710",
       expectation="96 prefilled and 8 decoded rows are the oracle's within the band")
@pytest.mark.parametrize("geometry", CHOICES)
def test_logits(case: Case, subject: Worker, start: Start, geometry: Geometry, geometry_dir: Path) -> None:
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
    oracle = Oracle.open(path)
    diagnose(case, oracle, geometry, found, ids, worker)
    return judge_logits(case, oracle, worker.describe(), found, ids)


@check(id="G.boundaries", family="G", clause="DESIGN §9: nothing breaks at block edges", needs=("prefill", "decode"),
       motive="https://github.com/sgl-project/sglang/issues/25790",
       expectation="decoding across positions 31–33, 63–65, 127–129, 255–257 and 511–513 gives the oracle's rows")
@pytest.mark.parametrize("edge", [32, 64, 128, 256, 512])
def test_boundaries(case: Case, subject: Worker, oracle: Oracle, edge: int) -> None:
    ids = [int(i) for i in case.rng("ids").integers(0, oracle.config.vocab_size, edge + 3)]
    session = subject.open()
    subject.prefill(session, ids[: edge - 2], rows="last")
    found = np.concatenate([subject.decode([session], [id]) for id in ids[edge - 2 :]])
    subject.close(session)
    judge_logits(case, oracle, subject.describe(), found, ids)
