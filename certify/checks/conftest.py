"""Fixtures of the checks that exchange: one case a peer, and each engine's own run measured once a process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from certify.case import Case
from certify.exchange import Station, exchange_ids, station
from certify.oracle import Oracle
from zeitgeist.host.workers import Worker

__all__ = ["pytest_generate_tests"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parameter `peer`. Smoke without peers: the reference and a second process of the subject; else "" for none."""
    if "peer" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    names = [name for name in str(option("--zg-peers", "")).split(",") if name and name != "none"]
    if not names:
        smoke = option("--zg-level", "") == "smoke"
        names = list(dict.fromkeys(("reference", str(option("--zg-subject", ""))))) if smoke else [""]
    metafunc.parametrize("peer", names, ids=[name or "none" for name in names])


@pytest.fixture(scope="session")
def measured() -> dict[tuple[int, int], Station]:
    """Stations of this process by worker and seed."""
    return {}


@pytest.fixture
def stations(
    case: Case, oracle: Oracle, model_path: Path, measured: dict[tuple[int, int], Station]
) -> Callable[[str, Worker], Station]:
    """The station of a worker, measured when first asked for. The station keeps its worker, so no id comes twice."""

    def of(name: str, worker: Worker) -> Station:
        key = (id(worker), case.seed)
        if key not in measured:
            measured[key] = station(name, worker, oracle, exchange_ids(model_path, case.seed))
        return measured[key]

    return of
