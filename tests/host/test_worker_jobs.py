"""Jobs on a real worker process: tokens as the canonical sampler gives them, and every way in which it may end (E4)."""

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_parent import MODEL, JobParent, assign

from zeitgeist.backends.reference import create
from zeitgeist.core.descriptors.sampling import SamplingParams
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.wire import messages as w
from zeitgeist.host import messages as m
from zeitgeist.host.channel import Channel, ChannelClosed, ChannelTimeout
from zeitgeist.host.child import WorkerSpec
from zeitgeist.host.generation import real
from zeitgeist.host.launch import start_worker_process
from zeitgeist.host.local_port import Lie, LocalPort
from zeitgeist.host.service import Service

pytestmark = pytest.mark.requirement("E4")
PROMPT = (5, 6, 7, 8, 9)
SAMPLED = SamplingParams(seed=7, temperature="1.5", top_logprobs=3)


@pytest.fixture
def parent() -> Iterator[JobParent]:
    """One worker a test: what a job leaves behind is part of what is tested."""
    with JobParent() as parent:
        yield parent


@pytest.fixture(scope="module")
def service() -> Service:
    """The same model in this process."""
    service = Service(create({}))
    service.load(MODEL)
    return service


def expected(service: Service, count: int, params: SamplingParams, stop: tuple[int, ...] = ()) -> list[m.TokenContent]:
    """What `generate` gives, as it travels."""
    asked = m.Generate(ids=PROMPT, token_count_max=count, params=params, stop_ids=stop)
    return [
        m.TokenContent(
            id=token.id, data=token.data, logprob=real(token.logprob), top=tuple((i, real(p)) for i, p in token.top)
        )
        for token in service.answer(asked).value.tokens
    ]


def metrics(parent: JobParent, number: int = 1) -> dict[str, int]:
    """Of the worker's engine, asked by a call on the same link."""
    content = encode(m.Asked(request=m.Metrics()))
    parent.port.say(w.Call(number=number), number, content, None, time.monotonic() + 20)
    reply, answer = None, b""
    while not isinstance(reply, w.Reply):
        reply = parent.hear()
        answer = parent.content
    return m.read_value(m.read_answered(answer).value, dict[str, int])


def held(parent: JobParent) -> int:
    """Sessions in the worker's engine."""
    return metrics(parent)["sessions_held"]


@pytest.mark.parametrize("params", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_a_job_streams_what_generate_gives(parent: JobParent, service: Service, params: SamplingParams) -> None:
    """Ids, bytes, log probabilities and alternatives, token by token; afterwards the engine holds nothing (E5)."""
    parent.submit("a", PROMPT, token_count_max=12, params=params)
    finished = parent.drain("a")
    assert (finished.outcome, finished.token_count) == ("length", 12)
    assert parent.tokens["a"] == expected(service, 12, params)
    assert held(parent) == 0


def test_a_stop_id_ends_a_job_and_is_its_last_token(parent: JobParent, service: Service) -> None:
    """As in `generate`."""
    stop = (expected(service, 3, SamplingParams())[2].id,)
    parent.submit("a", PROMPT, stop_ids=stop)
    assert parent.drain("a").outcome == "stop"
    assert parent.tokens["a"] == expected(service, 8, SamplingParams(), stop)


def test_the_end_of_the_context_ends_a_job(parent: JobParent, service: Service) -> None:
    """As a limit does: the last position is used, none beyond it."""
    room = service.room
    parent.submit("a", [5] * (room - 3), token_count_max=100)
    finished = parent.drain("a")
    assert (finished.outcome, finished.token_count) == ("length", 4)


def test_a_text_is_tokenised_by_the_worker(parent: JobParent, service: Service) -> None:
    """Prompt `text`: the same tokens as of its ids."""
    parent.say(assign("a", parent.model, prompt="text"), b"The quick brown")
    parent.drain("a")
    parent.submit("b", service.tokenize("The quick brown"))
    parent.drain("b")
    assert parent.tokens["a"] == parent.tokens["b"]


def test_jobs_beside_one_another_get_the_tokens_that_each_gets_alone(parent: JobParent, service: Service) -> None:
    """Three at once, in batches; the reference is batch-invariant, so no bit differs. A call is answered between."""
    for seed in (1, 2, 3):
        parent.submit(f"j{seed}", PROMPT, token_count_max=10, params=SamplingParams(seed=seed, temperature="1.5"))
    assert held(parent) >= 1
    ended = {said.job for said in parent.said if isinstance(said, w.Finished)}
    while len(ended) < 3:
        ended.add(parent.until(w.Finished).job)
    for seed in (1, 2, 3):
        assert parent.tokens[f"j{seed}"] == expected(service, 10, SamplingParams(seed=seed, temperature="1.5"))
    first = [said.job for said in parent.said if isinstance(said, w.Token)]
    assert len(set(first[:20])) > 1, "they took turns"


def test_a_worker_that_is_not_acknowledged_stops_at_its_window(parent: JobParent) -> None:
    """Backpressure (DESIGN §3): three tokens, then silence; one acknowledgement of two, two more."""
    parent.submit("a", PROMPT, window=3, token_count_max=50)
    parent.until(w.Token, index=2)
    with pytest.raises(ChannelTimeout):
        parent.hear(0.2)
    parent.say(w.TokenAck(job="a", attempt=1, next=2))
    parent.until(w.Token, index=4)
    with pytest.raises(ChannelTimeout):
        parent.hear(0.2)


def test_a_cancel_ends_a_stream_and_frees_its_session(parent: JobParent) -> None:
    """Mid-stream, far from the window's end: the socket is looked at between two steps; as many tokens as were sent."""
    parent.submit("a", PROMPT, token_count_max=400, window=4096)
    parent.until(w.Token, index=1)
    parent.say(w.CancelJob(job="a"))
    finished = parent.until(w.Finished)
    assert (finished.outcome, finished.token_count) == ("cancelled", len(parent.tokens["a"]))
    assert held(parent) == 0


def test_a_cancel_reaches_a_prompt_between_two_chunks(parent: JobParent, service: Service) -> None:
    """The prompt is read in chunks, the socket looked at between them: an answer without a single token."""
    parent.submit("a", [5] * (service.room - 1))
    parent.until(w.Acknowledged)
    parent.say(w.CancelJob(job="a"))
    finished = parent.until(w.Finished)
    assert (finished.outcome, finished.token_count) == ("cancelled", 0)
    counted = metrics(parent)
    assert (counted["sessions_held"], counted["tokens_prefilled"]) == (0, 0), "the prompt was not read to its end"


@pytest.mark.parametrize(
    ("changed", "content", "id"),
    [
        ({"params": SamplingParams(top_p="2.0")}, b"\x05\x00\x00\x00", "zg/sampling/bad-params"),
        ({"stop_ids": (10**6,)}, b"\x05\x00\x00\x00", "zg/backend/bad-argument"),
        ({}, b"\x05\x00\x00", "zg/backend/bad-argument"),
        ({}, b"\xff\xff\xff\x7f", "zg/backend/bad-argument"),
        ({"prompt": "text"}, b"\xff\xfe", "zg/backend/bad-argument"),
    ],
)
def test_a_prompt_that_cannot_be_read_fails_its_job_and_leaves_nothing(
    parent: JobParent, changed: dict[str, object], content: bytes, id: str
) -> None:
    """Parameters, stop ids, ragged ids, ids outside the vocabulary, text that is none; the next job runs."""
    parent.say(assign("a", parent.model, **changed), content)
    finished = parent.until(w.Finished)
    assert (finished.outcome, finished.reason.id) == ("failed", id)
    assert held(parent) == 0
    parent.submit("b", PROMPT)
    assert parent.drain("b").outcome == "length"


@pytest.mark.requirement("I13")
def test_a_worker_declares_its_engine_and_its_model(parent: JobParent) -> None:
    """Five phases on the socket pair: a node routes to what was declared, and to nothing else (B1, B3)."""
    assert parent.up.descriptor.roles == ("executor",)
    assert [backend.name for backend in parent.up.descriptor.backends] == ["reference"]
    assert [offer.backend for offer in parent.up.models] == ["w1"]
    assert parent.up.plan.mode == "routed"


@pytest.mark.requirement("I13")
def test_kill_9_while_streaming_is_heard_as_the_end_of_the_link() -> None:
    """The node hears the socket close and how the process ended; what was sent before it is whole."""
    with JobParent() as parent:
        parent.submit("a", PROMPT, token_count_max=400)
        parent.until(w.Token, index=2)
        os.kill(parent.child.pid, signal.SIGKILL)
        with pytest.raises(ChannelClosed):
            while True:
                parent.hear()
        assert parent.child.wait(10)
        assert parent.child.ending() == "was ended by SIGKILL"


@pytest.mark.requirement("I13")
def test_a_stopped_worker_is_silent_and_dies_of_a_kill() -> None:
    """SIGSTOP while streaming: no frame, no end of the socket; the parent's own deadline decides, a kill ends it."""
    with JobParent() as parent:
        parent.submit("a", PROMPT, token_count_max=400)
        parent.until(w.Token, index=2)
        os.kill(parent.child.pid, signal.SIGSTOP)
        with pytest.raises(ChannelTimeout):
            while True:
                parent.hear(0.3)
        assert not parent.child.wait(0)
        parent.child.kill()
        assert parent.child.ending() == "was ended by SIGKILL"


@pytest.mark.requirement("I13")
@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n" * 9, json.dumps({"jsonrpc": "2.0"}).encode() * 9, bytes(200)],
    ids=["http", "json", "zeros"],
)
def test_a_worker_that_is_sent_garbage_leaves(garbage: bytes) -> None:
    """Nothing behind a broken frame can be trusted: the worker ends by itself, with code 0, amid a stream."""
    with JobParent() as parent:
        parent.submit("a", PROMPT, token_count_max=400)
        parent.until(w.Token, index=1)
        parent.channel.sock.setblocking(True)
        parent.channel.sock.sendall(garbage)
        fd = os.pidfd_open(parent.child.pid)
        try:
            assert select.select([fd], [], [], 10)[0]
        finally:
            os.close(fd)
        assert parent.child.exit_code() == 0


@pytest.mark.requirement("I13")
def test_a_worker_ends_when_its_parent_closes_the_socket() -> None:
    """Also in the middle of a stream; its folder is gone with it."""
    with JobParent() as parent:
        parent.submit("a", PROMPT, token_count_max=400)
        parent.until(w.Token, index=1)
        parent.channel.close()
        assert parent.child.wait(10)
        assert parent.child.exit_code() == 0
        assert not Path(parent.child.folder).exists()


@pytest.mark.requirement("I13")
def test_a_model_that_cannot_be_loaded_is_refused_in_the_worker_s_words() -> None:
    """The handshake hears why, by the reader's own id; nothing has to be guessed from an exit code."""
    with pytest.raises(ZeitgeistError) as caught:
        JobParent(WorkerSpec(backend="reference", model="/nowhere/model", name="w1", cluster="home"))
    assert caught.value.id.startswith("zg/model/"), str(caught.value)


@pytest.mark.requirement("I13")
def test_a_worker_of_another_cluster_is_refused() -> None:
    """What both must say alike: the configuration of the node says where its workers belong (B3)."""
    child, sock = start_worker_process(WorkerSpec(backend="reference", name="w1", cluster="home"))
    try:
        with pytest.raises(Lie, match="cluster"):
            LocalPort(Channel(sock), "office", 20).shake(time.monotonic() + 20)
    finally:
        child.discard()
