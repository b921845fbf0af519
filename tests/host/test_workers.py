"""The parent's side of a worker: it notices death, silence and lies, and leaves nothing behind (I1, I12)."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import TESTS, spec, started
from toy_mutants import LIES

from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.wire.messages import Reply
from zeitgeist.host import messages as m
from zeitgeist.host import worker_main
from zeitgeist.host.child import OUTPUT_BYTES_MAX, environment, sweep
from zeitgeist.host.engine import reason_of
from zeitgeist.host.workers import Pending, Worker, WorkerCrashed, WorkerLied, WorkerSpec, WorkerTimeout

pytestmark = pytest.mark.requirement("I13")


def mutant(defect: str, service: str = "", timeout_s: float = 20.0) -> WorkerSpec:
    return spec("toy_mutants:create", service, timeout_s, defect=defect)


def folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob(f"zg-worker-{os.getpid()}-*")}


def open_descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def gone(pid: int, timeout_s: float = 10.0) -> bool:
    """True when process pid ends in time; it need not be our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


@pytest.mark.requirement("I1")
def test_a_worker_answers_from_another_process_and_its_descriptor_says_so() -> None:
    """DESIGN §5: every backend runs in a process of its own."""
    with started() as worker:
        assert worker.child.pid != os.getpid()
        assert worker.describe().isolation == "process"
        assert worker.metrics()["sessions_held"] == 0


def test_abort_is_a_crash_with_its_signal_and_the_end_of_the_output() -> None:
    """A segfault is an event (DESIGN §5): SIGABRT is named, and what was printed before it is shown."""
    worker = Worker.start(mutant("abort"))
    with pytest.raises(WorkerCrashed, match="SIGABRT") as caught:
        worker.metrics()
    assert caught.value.signal == "SIGABRT"
    assert caught.value.exit_code is None
    assert "about to abort" in caught.value.output
    with pytest.raises(WorkerCrashed):
        worker.describe()
    assert not folders()


def test_an_exit_is_a_crash_with_its_code() -> None:
    """os._exit(7) inside an engine."""
    with (
        started("toy_mutants:create", defect="exit") as worker,
        pytest.raises(WorkerCrashed, match="exit code 7") as caught,
    ):
        worker.metrics()
    assert caught.value.exit_code == 7


def test_kill_9_is_a_crash() -> None:
    """The kernel's out-of-memory killer does the same."""
    with started() as worker:
        os.kill(worker.child.pid, signal.SIGKILL)
        with pytest.raises(WorkerCrashed, match="SIGKILL"):
            worker.describe()


@pytest.mark.parametrize("defect", ["hang", "stop"])
def test_a_worker_that_hangs_or_is_stopped_is_killed_in_time(defect: str) -> None:
    """`hang` holds the interpreter lock inside native code; `stop` is SIGSTOP: both die of SIGKILL only."""
    worker = Worker.start(mutant(defect, timeout_s=0.3))
    pid, begun = worker.child.pid, time.monotonic()
    with pytest.raises(WorkerTimeout):
        worker.metrics()
    assert 0.3 <= time.monotonic() - begun < 5
    assert gone(pid)
    assert not folders()


def test_a_stopped_worker_that_reads_nothing_is_a_timeout_too() -> None:
    """The call is larger than the socket's buffers: sending has a deadline as well as receiving."""
    with started(timeout_s=0.3) as worker:
        os.kill(worker.child.pid, signal.SIGSTOP)
        with pytest.raises(WorkerTimeout):
            worker.tokenize("x" * 900_000)


def test_an_exception_of_the_engine_is_mapped_and_the_worker_lives_on() -> None:
    """map_error turns it into `zg/backend/failed`; the next call is answered."""
    with started("toy_mutants:create", defect="raise") as worker:
        with pytest.raises(ZeitgeistError, match="unhappy") as caught:
            worker.metrics()
        assert caught.value.id == "zg/backend/failed"
        assert worker.probe("decode")


def test_control_c_reaches_the_parent_only() -> None:
    """SIGINT in the child is ignored; the parent decides."""
    with started("toy_mutants:create", defect="interrupt") as worker:
        assert worker.metrics()


def test_output_is_kept_to_a_bound_and_never_blocks_the_child() -> None:
    """4 MB printed in one call."""
    with started("toy_mutants:create", defect="flood") as worker:
        worker.metrics()
        assert len(worker.child.output()) <= OUTPUT_BYTES_MAX


SAID = {
    "garbage": "magic",
    "flipped": "bad-payload-checksum",
    "huge": "frame-too-large",
    "kind": "a Call, which only a parent says",
    "not-canonical": "zg/wire/not-canonical",
    "unknown-field": "zg/wire/bad-record",
    "channel": "zg/node/wrong-channel",
    "unknown-kind": "kind: got 0x0999",
    "token": "kind: got 0x0035",
    "handshake-again": "zg/node/wrong-state",
    "unasked": "the reply of call 2 to call 1",
    "sequence": "sequence: got 7",
    "replayed": "sequence: got 0",
    "no-descriptor": "0 descriptors",
    "two-descriptors": "2 descriptors",
    "unannounced-descriptor": "1 descriptors",
    "number": "call 99",
    "type": "Expected `object`",
    "value": "malformed",
    "error-id": "zg/made/up",
    "length": "length: got 1099511627776",
    "short": "length: got 1048576, wanted 2097152",
    "shape": "shape: got",
    "negative": "shape: got",
    "digest": "xxh3: got",
    "unsealed": "seals: got",
    "pipe": "length: got 0",
    "no-array": "inline: got no bytes",
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_what_is_no_answer_is_a_lie_and_ends_the_worker(lie: str) -> None:
    """Frames, replies, values, arrays: each wrong in one way; each refused for that, before it is used (DESIGN §3)."""
    worker = Worker.start(mutant(lie, "toy_mutants:Liar"))
    pid = worker.child.pid
    with pytest.raises(WorkerLied, match=re.escape(SAID[lie])) as caught:
        worker.metrics()
    assert caught.value.id == "zg/worker/lied"
    assert gone(pid)
    assert not folders()


RUDE = {
    "garbage": "magic",
    "reply": "zg/node/wrong-state",
    "welcome": "zg/node/wrong-state",
    "challenge-empty": "zg/wire/bad-record",
    "skipped": "zg/node/wrong-sequence",
    "no-reason": "zg/wire/bad-record",
    "made-up": "zg/made/up",
}


@pytest.mark.parametrize("word", sorted(RUDE))
def test_a_worker_that_breaks_the_handshake_lied(word: str) -> None:
    """It speaks out of turn while it starts: each refused by the session's own rules, the process ended (B1)."""
    with pytest.raises(WorkerLied, match=re.escape(RUDE[word])):
        Worker.start(spec("toy_mutants:early", word=word))
    assert not folders()


def test_a_second_answer_is_a_lie_to_the_next_call() -> None:
    """A reply to no call: in order, well formed, and of a number that nobody waits for."""
    with started() as worker:
        worker.count += 1
        worker.port.call(1, encode(m.Asked(request=m.Probe(capability="decode"))), None, time.monotonic() + 10)
        with pytest.raises(WorkerLied, match="the reply of call 1 to call 2"):
            worker.probe("decode")


def test_an_announced_length_takes_no_memory() -> None:
    """4 GiB are announced in a frame, 1 TiB in an array: the parent's peak grows by less than 4 MiB."""
    for lie in ("huge", "length"):
        with Worker.start(mutant(lie, "toy_mutants:Liar")) as worker:
            tracemalloc.start()
            with pytest.raises(WorkerLied):
                worker.metrics()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 << 20


def test_64_mib_go_there_and_back_unchanged() -> None:
    """A sealed memory file each way; the result is read-only and outlives the worker."""
    sent = np.random.default_rng(1).standard_normal((1 << 14, 1 << 10)).astype(np.float32)
    with started(service="toy_mutants:Echo") as worker:
        worker.rows(m.ForwardRange(session=1), np.zeros((1, 4), np.float32))
        back = worker.rows(m.ForwardRange(session=1), sent)
    assert back.tobytes() == sent.tobytes()
    assert not back.flags.writeable


def test_two_workers_answer_at_once() -> None:
    """Two threads, each with its own."""

    def prefixes(_: int) -> int:
        with started() as worker:
            return sum(worker.probe("decode") for _ in range(200))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(prefixes, range(2))) == [200, 200]


def test_a_worker_outlives_the_thread_that_started_it() -> None:
    """The kernel's death signal follows the *thread* that forked; ours is one that stays."""
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(Worker.start, spec()).result()
    with worker:
        assert not gone(worker.child.pid, 0.2)
        assert worker.probe("decode")


def test_a_worker_dies_with_its_parent_even_inside_an_engine() -> None:
    """The parent is killed with -9 while the engine hangs with the interpreter lock held; its folder is swept later."""
    program = (
        "from zeitgeist.host.workers import *; from zeitgeist.host import messages as m; import sys\n"
        f"s = WorkerSpec(backend='toy_mutants:create', options={{'defect': 'hang'}}, python_path=({TESTS!r},))\n"
        "w = Worker.start(s)\n"
        "w.begin(m.Metrics()); print(w.child.pid, w.child.folder, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        parent.kill()
        try:
            assert gone(int(pid))
        finally:  # a worker that failed this test must not hang on after it
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    sweep(Path(tempfile.gettempdir()))
    assert not Path(folder).exists()


def test_the_end_of_the_interpreter_ends_its_workers() -> None:
    """Nobody called stop: the finalizer kills, reaps and removes."""
    program = (
        "from zeitgeist.host.workers import *\n"
        f"w = Worker.start(WorkerSpec(backend='toy_backend:create', python_path=({TESTS!r},)))\n"
        "print(w.child.pid, w.child.folder, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    pid, folder = done.stdout.split()
    assert gone(int(pid))
    assert not Path(folder).exists()


def children() -> set[int]:
    """Processes that we started and have not waited for; zombies are among them. A browser of another test may be."""
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        pairs = [line.split() for line in listing.stdout]
    return {int(pid) for pid, parent in pairs if int(parent) == os.getpid()} - {listing.pid}


@pytest.mark.slow
def test_fifty_starts_leak_no_descriptor_no_folder_no_zombie() -> None:
    """Half of them end by crash."""
    with started():
        pass
    before, mine = open_descriptors(), children()
    for index in range(50):
        worker = Worker.start(mutant("exit"))
        if index % 2:
            with pytest.raises(WorkerCrashed):
                worker.metrics()
        worker.stop()
    assert len(open_descriptors()) <= len(before)  # fewer: what an earlier test forgot was collected meanwhile
    assert not folders()
    assert children() <= mine


def test_a_missing_engine_is_named_at_the_start() -> None:
    """`zg/backend/not-installed`, and no process is left."""
    with pytest.raises(ZeitgeistError, match="an_engine_that_nobody_has") as caught:
        Worker.start(spec("toy_mutants:engine_missing"))
    assert caught.value.id == "zg/backend/not-installed"
    assert not folders()


def test_an_interpreter_that_is_not_there_is_an_error_not_a_traceback() -> None:
    """`zg/worker/start`."""
    with pytest.raises(ZeitgeistError) as caught:
        Worker.start(WorkerSpec(backend="reference", python="/nowhere/python"))
    assert caught.value.id == "zg/worker/start"


def test_one_call_at_a_time_and_none_after_the_end() -> None:
    """A second begin is `zg/worker/busy`; after stop `zg/worker/closed`; stop twice is one stop."""
    with started() as worker:
        pending = worker.begin(m.Probe(capability="decode"), bool)
        with pytest.raises(LocalProtocolError) as caught:
            worker.begin(m.Describe())
        assert caught.value.id == "zg/worker/busy"
        assert pending.result()[0] is True
    worker.stop()
    with pytest.raises(LocalProtocolError) as closed:
        worker.describe()
    assert closed.value.id == "zg/worker/closed"


def test_the_child_gets_no_secret_and_pinned_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION I12: no keys. Only a list of variables is passed on."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    env = environment(spec(), "/somewhere")
    assert "secret" not in env.values()
    assert (env["OMP_NUM_THREADS"], env["HF_HUB_OFFLINE"], env["TMPDIR"]) == ("1", "1", "/somewhere")


@pytest.mark.parametrize(
    "body", [{"type": "telepathy"}, {"type": "fork", "session": 1, "extra": 2}, {"type": "fork", "session": "1"}]
)
def test_a_request_that_the_worker_does_not_know_is_refused_and_it_lives_on(body: dict[str, object]) -> None:
    """Unknown method, unknown field, wrong type: `zg/worker/bad-request`; the next call is answered."""
    with started() as worker:
        content = msgspec.msgpack.encode({"array": None, "request": body}, order="sorted")
        worker.port.call(1, content, None, time.monotonic() + 10)
        worker.count, worker.pending = 1, Pending(worker, 1, None, time.monotonic() + 10)
        with pytest.raises(ZeitgeistError) as caught:
            worker.pending.result()
        assert caught.value.id == "zg/worker/bad-request"
        assert worker.probe("decode")


def test_a_call_too_large_for_a_frame_is_refused_before_it_is_sent() -> None:
    """The caller is wrong, the worker is not harmed."""
    with started() as worker:
        with pytest.raises(LocalProtocolError) as caught:
            worker.tokenize("x" * (2 << 20))
        assert caught.value.id == "zg/wire/frame-too-large"
        assert worker.probe("decode")


CACHE_HEADERS = {
    "surrogate in a dtype": {"a": {"dtype": "\ud800", "shape": [1], "data_offsets": [0, 4]}},
    "surrogate in a name": {"\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
    "name of megabytes": {"x" * 1_990_000: {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
    "zeros that hide a product": {"a": {"dtype": "F32", "shape": [0, 1 << 48, 1 << 48], "data_offsets": [0, 0]}},
}


@pytest.mark.requirement("R3")
def test_foreign_cache_bytes_are_refused_and_the_worker_lives_on() -> None:
    """Headers whose refusal could not be written, or not sent; after each of them the same worker answers."""
    model = Path(__file__).parents[2] / "fixtures/models/zg-tiny"
    with Worker.start(WorkerSpec(backend="reference")) as worker:
        worker.load(model)
        for name, header in CACHE_HEADERS.items():
            head = json.dumps(header).encode()
            data = len(head).to_bytes(8, "little") + head + (b"" if "zeros" in name else bytes(4))
            with pytest.raises(ZeitgeistError) as caught:
                worker.import_cache(data, [5, 6, 7])
            assert caught.value.id.startswith("zg/safetensors/"), (name, str(caught.value))
            assert worker.prefill(worker.open(), [5, 6, 7]).shape[0] == 3


@pytest.mark.parametrize("changed", [{"detail": "x" * 3_000_000}, {"field": "\ud800" * 9}])
def test_a_refusal_changed_after_it_was_made_can_still_be_sent(changed: dict[str, str]) -> None:
    """The worker bounds what it sends, however the error came by its texts."""
    error = ZeitgeistError("zg/backend/failed", "detail", "field")
    vars(error).update(changed)
    assert len(encode(Reply(number=1, refusal=reason_of(error)))) < 4000


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda worker: worker.prefill(0, [1, 2**70]), "ids[1]"),
        (lambda worker: worker.decode([10**400], [1]), "sessions[0]"),
        (lambda worker: worker.open(-(2**64)), "first"),
        (lambda worker: worker.tokenize("a\ud800"), "text"),
    ],
)
def test_an_argument_that_no_message_can_hold_is_refused_by_its_name(
    call: Callable[[Worker], object], field: str
) -> None:
    """Before anything is sent; the worker answers the next call."""
    with started() as worker:
        with pytest.raises(LocalProtocolError) as caught:
            call(worker)
        assert (caught.value.id, caught.value.field) == ("zg/backend/bad-argument", field)
        assert worker.probe("decode")


if sys.platform == "linux":  # parent-death signals are Linux's; elsewhere the socket's end is all there is

    def test_a_worker_whose_kernel_would_let_it_outlive_its_parent_does_not_start(
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """prctl answers an unknown option with an error, as a sandbox that forbids it does."""
        monkeypatch.setattr(worker_main, "PR_SET_PDEATHSIG", 1 << 20)
        with pytest.raises(OSError, match="die with our parent"):
            worker_main.die_with_parent(os.getppid())


@pytest.mark.requirement("I1")
def test_a_cancel_stops_a_prefill_at_the_next_chunk_and_the_session_lives_on() -> None:
    """The cancel frame overtakes nothing: it is seen between two chunks of 16; what came early is answered after."""
    model = Path(__file__).parents[2] / "fixtures/models/zg-tiny"
    with Worker.start(WorkerSpec(backend="reference")) as worker:
        worker.load(model)
        session = worker.open()
        kept = worker.prefill(session, [5, 6, 7])
        pending = worker.begin_prefill(session, [5] * 3000, chunk=16)
        pending.cancel()
        with pytest.raises(ZeitgeistError) as caught:
            pending.result()
        assert caught.value.id == "zg/backend/cancelled"
        assert worker.session_info(session).ids == (5, 6, 7)
        assert worker.metrics()["tokens_prefilled"] == 3
        assert np.array_equal(worker.prefill(worker.open(), [5, 6, 7]), kept)


def test_a_cancel_of_a_call_that_is_answered_already_harms_nobody() -> None:
    """It crosses the answer on the way; the next call is another number."""
    with started() as worker:
        pending = worker.begin(m.Probe(capability="decode"), bool)
        pending.result()
        pending.cancel()
        assert worker.probe("decode")
