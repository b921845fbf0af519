"""What the service checks before an adapter is called, on the reference backend and zg-tiny (I1, B)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zeitgeist.backends.reference import create
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.host import messages as m
from zeitgeist.host.service import Service
from zeitgeist.sampling import SamplingParams

pytestmark = pytest.mark.requirement("I1")
MODEL = Path(__file__).parents[2] / "fixtures/models/zg-tiny"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One loaded service; tests close their sessions or do not mind others'."""
    service = Service(create({}))
    service.load(MODEL)
    yield service
    service.shutdown()


def refused(service: Service, request: m.Request, array: Any = None) -> tuple[str, str]:
    """(error id, field) of a refusal, and that no session changed."""
    before = {
        number: (held.session.position_count, held.ids and len(held.ids)) for number, held in service.held.items()
    }
    with pytest.raises(ZeitgeistError) as caught:
        service.answer(request, array)
    assert before == {n: (held.session.position_count, held.ids and len(held.ids)) for n, held in service.held.items()}
    return caught.value.id, caught.value.field


def opened(service: Service, ids: Sequence[int] = (), first: int = 0, stop: int | None = None) -> int:
    number = service.open(first, stop)
    if ids:
        service.answer(m.Prefill(session=number, ids=tuple(ids)))
    return number


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (m.Prefill(session=1, ids=(0, 512)), "ids[1]"),
        (m.Prefill(session=1, ids=(-1,)), "ids[0]"),
        (m.Prefill(session=1, ids=(1,), chunk=-1), "chunk"),
        (m.Prefill(session=1, ids=()), "ids"),
        (m.Decode(sessions=(1, 1), ids=(1, 1)), "sessions"),
        (m.Decode(sessions=(1,), ids=(1, 1)), "sessions"),
        (m.Decode(sessions=(), ids=()), "sessions"),
        (m.Truncate(session=1, position_count=9), "position_count"),
        (m.Truncate(session=1, position_count=-1), "position_count"),
        (m.Open(first=2, stop=2), "layers"),
        (m.Open(first=-1), "layers"),
        (m.Open(first=0, stop=99), "layers"),
        (m.Detokenize(ids=(10**9,)), "ids[0]"),
        (m.Load(path=str(MODEL)), "path"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_its_name(service: Service, request_: m.Request, field: str) -> None:
    """`zg/backend/bad-argument`, before the adapter is called: no session changes."""
    opened(service)
    assert refused(service, request_) == ("zg/backend/bad-argument", field)


def test_a_session_that_is_not_there_is_refused(service: Service) -> None:
    """Never opened, and closed."""
    number = opened(service)
    service.answer(m.CloseSession(session=number))
    assert refused(service, m.Prefill(session=number, ids=(1,)))[0] == "zg/backend/no-such-session"
    assert refused(service, m.Fork(session=10**6))[0] == "zg/backend/no-such-session"


def test_the_context_has_an_end(service: Service) -> None:
    """One token more than the model's context is refused before the engine computes anything."""
    number = opened(service)
    too_many = (1,) * (service.config.context_length + 1)
    assert refused(service, m.Prefill(session=number, ids=too_many)) == ("zg/backend/context-full", "ids")


class Silent:
    """An adapter that claims nothing and fails the test when anything but describe is called."""

    def __init__(self) -> None:
        self.inner = create({})

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")

    def describe(self) -> Any:
        import msgspec

        return msgspec.structs.replace(self.inner.describe(), capabilities=())


@pytest.mark.parametrize(
    "request_",
    [
        m.Tokenize(text="x"),
        m.Detokenize(ids=(1,)),
        m.Open(first=1),
        m.Fork(session=1),
        m.Truncate(session=1, position_count=0),
        m.Prefill(session=1, ids=(1,)),
        m.Decode(sessions=(1,), ids=(1,)),
        m.ForwardRange(session=1, ids=(1,)),
        m.ExportCache(session=1),
        m.ImportCache(ids=(1,)),
        m.Metrics(),
        m.Probe(capability="decode"),
    ],
    ids=lambda r: type(r).__name__,
)
def test_what_is_not_claimed_is_refused_before_the_adapter_is_called(service: Service, request_: m.Request) -> None:
    """`zg/backend/unsupported`; the adapter has no method but describe."""
    silent = Service(Silent())  # pyright: ignore[reportArgumentType]
    silent.model = service.model
    with pytest.raises(LocalProtocolError) as caught:
        silent.answer(request_)
    assert caught.value.id == "zg/backend/unsupported"


def test_a_nonsense_capability_is_refused_even_when_claimed(service: Service) -> None:
    """DESIGN §9: it is asked for before anything else."""
    assert refused(service, m.Probe(capability="telepathy")) == ("zg/backend/unsupported", "telepathy")


def test_no_model_no_session() -> None:
    """`zg/backend/no-model`."""
    assert refused(Service(create({})), m.Open())[0] == "zg/backend/no-model"


def test_a_session_knows_its_tokens_through_fork_truncate_and_decode(service: Service) -> None:
    """The identity of a cache is the ids it holds."""
    number = opened(service, (5, 6, 7))
    copy = service.answer(m.Fork(session=number)).value
    service.answer(m.Decode(sessions=(number,), ids=(8,)))
    service.answer(m.Truncate(session=copy, position_count=2))
    assert service.session_info(number).ids == (5, 6, 7, 8)
    assert service.session_info(copy).ids == (5, 6)


def test_a_cancelled_prefill_leaves_the_session_as_it_was(service: Service) -> None:
    """Cancelled at the second chunk; the ids that the session holds are those from before."""
    number = opened(service, (5, 6, 7))
    asked = iter([False, True])
    with pytest.raises(ZeitgeistError) as caught:
        service.answer(m.Prefill(session=number, ids=(1,) * 32, chunk=16), None, lambda: next(asked))
    assert caught.value.id == "zg/backend/cancelled"
    assert service.session_info(number).ids == (5, 6, 7)
    assert service.held[number].session.position_count == 3


def test_stages_take_ids_first_and_finite_hidden_rows_later(service: Service) -> None:
    """Wrong width, wrong count, NaN, hidden rows for a first stage, ids alone for a later one: each refused by name."""
    width = service.config.hidden_size
    first, last = opened(service, stop=1), opened(service, first=1)
    good = np.zeros((2, width), np.float32)
    cases = [
        (first, (), good),
        (last, (1,), None),
        (last, (), good[:, 1:]),
        (last, (1,), good),
        (last, (), good * np.nan),
        (last, (), good.view(np.uint8)),
    ]
    for number, ids, array in cases:
        assert refused(service, m.ForwardRange(session=number, ids=ids), array) == ("zg/backend/bad-argument", "array")
    assert refused(service, m.Prefill(session=first, ids=(1,)))[1] == "session"


def test_two_stages_give_the_solo_answer_bitwise(service: Service) -> None:
    """The reference is invariant, so a split changes no bit; the later stage learns its ids beside the rows."""
    ids = (5, 6, 7, 8)
    solo = service.answer(m.Prefill(session=opened(service), ids=ids)).array
    first, last = opened(service, stop=1), opened(service, first=1)
    hidden = service.answer(m.ForwardRange(session=first, ids=ids)).array
    logits = service.answer(m.ForwardRange(session=last, ids=ids), np.asarray(hidden)).array
    assert np.array_equal(np.asarray(logits), np.asarray(solo))
    assert service.session_info(last).ids == ids


def test_a_stage_whose_tokens_nobody_stated_exports_nothing(service: Service) -> None:
    """A cache without its tokens has no identity."""
    last = opened(service, first=1)
    service.answer(m.ForwardRange(session=last), np.zeros((2, service.config.hidden_size), np.float32))
    assert refused(service, m.ExportCache(session=last))[0] == "zg/backend/tokens-unknown"


def test_a_result_of_the_wrong_shape_is_the_adapters_defect(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """float64, or a row too few: `zg/backend/bad-result`, not a wrong answer."""
    number = opened(service)
    wrong = [np.zeros((2, 512)), np.zeros((1, 512), np.float32), [0.0]]
    for result in wrong:
        monkeypatch.setattr(service.backend, "prefill", lambda *a, result=result, **k: result)
        with pytest.raises(ZeitgeistError) as caught:
            service.answer(m.Prefill(session=number, ids=(1, 2)))
        assert caught.value.id == "zg/backend/bad-result"


def test_generate_is_greedy_by_default_stops_at_a_stop_id_and_leaves_no_session(service: Service) -> None:
    """The first token is the argmax; with it as stop id the text ends there."""
    ids = tuple(service.tokenize("The quick brown"))
    logits = np.asarray(service.answer(m.Prefill(session=opened(service), ids=ids)).array)
    held = len(service.held)
    whole = service.answer(m.Generate(ids=ids, token_count_max=4)).value
    assert whole.tokens[0].id == int(logits[-1].argmax())
    assert (len(whole.tokens), whole.finish) == (4, "length")
    stopped = service.answer(m.Generate(ids=ids, token_count_max=4, stop_ids=(whole.tokens[0].id,))).value
    assert (len(stopped.tokens), stopped.finish) == (1, "stop")
    seeded = [
        service.answer(
            m.Generate(ids=ids, token_count_max=8, params=SamplingParams(seed=seed, temperature="1.5"))
        ).value
        for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]
    assert len(service.held) == held


def test_a_cache_leaves_and_comes_back_with_its_identity(service: Service) -> None:
    """Exported, imported for the same ids, continued: the same bits as the session it came from."""
    ids = (5, 6, 7, 8, 9)
    number = opened(service, ids)
    data = np.frombuffer(bytes(service.answer(m.ExportCache(session=number)).array), np.uint8)  # pyright: ignore
    imported = service.answer(m.ImportCache(ids=ids), data).value
    rows = [np.asarray(service.answer(m.Decode(sessions=(n,), ids=(3,))).array) for n in (number, imported.session)]
    assert np.array_equal(*rows)
    assert service.session_info(imported.session).ids == (*ids, 3)


@pytest.mark.parametrize("ids", [(5, 6, 7, 8, 10), (5, 6, 7, 8), (5, 6, 7, 8, 9, 9)])
def test_a_cache_of_other_tokens_never_reaches_the_adapter(
    service: Service, ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale, shorter, longer: refused by admission; import_cache of the adapter is not called."""
    data = np.frombuffer(
        bytes(service.answer(m.ExportCache(session=opened(service, (5, 6, 7, 8, 9)))).array),  # pyright: ignore
        np.uint8,
    )
    monkeypatch.setattr(service.backend, "import_cache", lambda *a: pytest.fail("the adapter was called"))
    assert refused(service, m.ImportCache(ids=ids), data)[0].startswith("zg/cache/")


def test_a_stages_cache_is_refused_for_another_stage(service: Service) -> None:
    """Layers [1, …) do not go into [0, 1)."""
    last = opened(service, first=1)
    service.answer(m.ForwardRange(session=last, ids=(5, 6)), np.zeros((2, service.config.hidden_size), np.float32))
    data = np.frombuffer(bytes(service.answer(m.ExportCache(session=last)).array), np.uint8)  # pyright: ignore
    assert refused(service, m.ImportCache(ids=(5, 6), stop=1), data)[0] == "zg/cache/layer-range"
    assert (
        service.held[service.import_cache(m.ImportCache(ids=(5, 6), first=1), data).session].session.layers.first == 1
    )
