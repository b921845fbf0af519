"""Mixed-engine pipelines, in family X: one model's layers over two and three engines equal solo in a bound (F8)."""

from collections.abc import Callable

import pytest

from certify import tolerance
from certify.case import Case
from certify.exchange import PIPED, PREFILLED, Station
from certify.pipelines import cuts_of, pipe, pipe_bounds, run_pipeline
from certify.plugin import Peers
from certify.registry import at_level, check
from certify.subject import Subject
from zeitgeist.host.workers import Worker

NEEDS = ("prefill", "decode", "layer_range", "cache_export")
NEEDS_PEERS = "no peers were given: --zg-peers names the engines to share layers with"
CUTS = (
    pytest.param("middle", id="middle"),
    pytest.param("first", id="after-the-first", marks=at_level("standard")),
    pytest.param("last", id="before-the-last", marks=at_level("full")),
)
Stations = Callable[[str, Worker], Station]


def cut_at(where: str, layer_count: int) -> int:
    """Layers of the first stage."""
    return {"middle": layer_count // 2, "first": 1, "last": layer_count - 1}[where]


def judge(case: Case, members: list[Station], cuts: tuple[int, ...]) -> None:
    """Run one pipeline and compare."""
    name = " > ".join(f"{one.name}[{cuts[i]}, {cuts[i + 1]})" for i, one in enumerate(members))
    piped = pipe(members, cuts, case.profile)
    case.measured(f"{name}: mean KL", piped.kl, "nat")
    for bound in pipe_bounds(piped):
        case.within(f"{name}: {bound.name}", bound.value, bound.limit, bound.source, bound.unit)
    case.seal(f"{name}: logits", piped.rows)


@check(
    id="X.split-is-solo",
    family="X",
    clause="F8: stages of one backend are bitwise solo",
    level="smoke",
    needs=NEEDS,
    requirement=("F8",),
    motive="llama.cpp drops rows of a last layer that asks for no logits (feasibility §5)",
    expectation="two stages of the subject give the bits that it gives with all layers",
)
@pytest.mark.parametrize("where", CUTS)
def test_split_is_solo(case: Case, subject: Subject, stations: Stations, where: str) -> None:
    own, layers = stations(case.subject_name, subject), subject.model.config.layer_count
    cuts = (0, cut_at(where, layers), layers)
    found = run_pipeline([subject, subject], cuts, own.ids[: PREFILLED + PIPED])
    far = tolerance.max_abs(own.steps, found)
    case.measured("distance to solo", far, "logit")
    if own.about.chunk_invariant or found.tobytes() == own.steps.tobytes():
        case.exact("logits", found, own.steps)
        return
    limit = max(case.profile["pipeline.loss_x32"], own.floor)
    case.within("distance to solo", far, limit, "pipeline.loss_x32", "logit")
    case.non_strict(f"stages of one backend SHOULD be bitwise solo; they are {far:.1e} apart")


@check(
    id="X.pipeline-of-two",
    family="X",
    clause="F8, D4: a mixed pipeline stays within the fidelity bound",
    level="smoke",
    needs=NEEDS,
    requirement=("F8",),
    motive="https://github.com/exo-explore/exo/issues/1370",
    expectation="96 prefilled and 16 decoded rows are the oracle's, in both orders, and near to either engine alone",
)
@pytest.mark.parametrize("where", CUTS)
def test_pipeline_of_two(case: Case, subject: Subject, peers: Peers, stations: Stations, peer: str, where: str) -> None:
    if not peer:
        case.skip(NEEDS_PEERS)
    own, other = stations(case.subject_name, subject), stations(peer, peers[peer])
    layers = subject.model.config.layer_count
    cuts = (0, cut_at(where, layers), layers)
    judge(case, [own, other], cuts)
    judge(case, [other, own], cuts)


@check(
    id="X.pipeline-of-three",
    family="X",
    clause="F8: three engines share the layers of one model",
    needs=NEEDS,
    requirement=("F8",),
    expectation="the subject as first, middle and last of three different engines",
)
def test_pipeline_of_three(case: Case, subject: Subject, peers: Peers, stations: Stations) -> None:
    engines = {case.subject_name.partition(":")[0]}
    chosen: list[str] = []
    for name in peers.names:
        if name.partition(":")[0] not in engines and len(chosen) < 2:
            chosen.append(name)
            engines.add(name.partition(":")[0])
    layers = subject.model.config.layer_count
    if len(chosen) < 2 or layers < 3:
        case.skip(
            f"three engines and three layers are needed; peers {', '.join(peers.names) or 'none'}, {layers} layers"
        )
    own = stations(case.subject_name, subject)
    first, second = (stations(name, peers[name]) for name in chosen)
    for members in ([own, first, second], [second, own, first], [first, second, own]):
        judge(case, members, cuts_of(layers, 3))
