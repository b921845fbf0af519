"""The parent's side of a worker, for a program without a node: start it, ask it, leave nothing behind (I13).

Law: every call has a deadline. A worker that dies gives `WorkerCrashed` with the signal and the end of its output,
one that does not answer is killed and gives `WorkerTimeout`, one that sends what is no answer is killed and gives
`WorkerLied`. After any of them the worker is gone: process reaped, socket closed, private folder removed.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelDescriptor
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import encode
from zeitgeist.host import messages as m
from zeitgeist.host.channel import Channel, ChannelClosed, ChannelTimeout
from zeitgeist.host.child import Child, WorkerSpec
from zeitgeist.host.launch import start_worker_process
from zeitgeist.host.local_port import Lie, LocalPort, rebuilt
from zeitgeist.host.memory import pack_array, unpack_array
from zeitgeist.sampling import GREEDY, SamplingParams

__all__ = ["Pending", "Worker", "WorkerCrashed", "WorkerFailed", "WorkerLied", "WorkerSpec", "WorkerTimeout"]

F32 = NDArray[np.float32]
T = TypeVar("T")
SHUTDOWN_S = 30.0
"""Freeing a loaded torch model takes 0.3 s here; later than this the worker is killed."""


class WorkerFailed(ZeitgeistError):
    """The worker itself failed; it is gone. output: the end of what it printed; signal: its name or ""."""

    def __init__(self, id: str, detail: str, child: Child) -> None:
        self.output = child.output()
        self.signal = child.signal_name()
        self.exit_code = child.exit_code()
        last = self.output.strip().splitlines()[-1:] or ["nothing"]
        super().__init__(id, f"{detail}; it last printed: {last[0][:200]}", child.spec.backend)


class WorkerCrashed(WorkerFailed):
    """It ended by a signal or an exit code while it was needed."""


class WorkerTimeout(WorkerFailed):
    """It did not answer in time and was killed."""


class WorkerLied(WorkerFailed):
    """It sent something that is no frame, no reply, or not the answer of its call; it was killed."""


class Pending:
    """A call that was sent. Take its result; cancel it before, if wanted."""

    def __init__(self, worker: "Worker", number: int, kind: Any, deadline: float) -> None:
        self.worker, self.number, self.kind, self.deadline = worker, number, kind, deadline

    def cancel(self) -> None:
        """Ask the worker to stop at the next chunk; `result` raises `zg/backend/cancelled` if it was in time."""
        self.worker.sending(lambda port: port.cancel(self.number, self.deadline))

    def result(self) -> tuple[Any, NDArray[Any] | None]:
        """(value, array). Raises what the worker refused, or `WorkerFailed`."""
        return self.worker.take(self)


class Worker:
    """One backend in its own process. A context manager; calls come from one thread at a time, `cancel` from any."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.spec = child.spec
        self.port = LocalPort(Channel(child.sock), self.spec.cluster, self.spec.start_timeout_s)
        self.calls = threading.RLock()
        self.sends = threading.Lock()
        self.count = 0
        self.pending: Pending | None = None
        self.failure: ZeitgeistError | None = None

    @classmethod
    def start(cls, spec: WorkerSpec) -> Self:
        """Start the process, wait until its backend is made, negotiate.

        Errors: what the factory refused (`zg/backend/not-installed` names the extra …), `WorkerFailed`.
        """
        deadline = time.monotonic() + spec.start_timeout_s
        worker = cls(start_worker_process(spec)[0])
        try:
            worker.classified(lambda: worker.port.shake(deadline))
        except BaseException:
            worker.discard()
            raise
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- calls

    def begin(self, request: m.Request, kind: Any = None, array: Any = None, timeout_s: float | None = None) -> Pending:
        """Send request and return at once. One call at a time; a second is refused (`zg/worker/busy`)."""
        if self.failure is not None:
            raise self.failure
        if self.pending is not None:
            raise LocalProtocolError("zg/worker/busy", f"call {self.pending.number} is in progress", self.spec.backend)
        check_sendable(request)
        self.count += 1
        deadline = time.monotonic() + (self.spec.timeout_s if timeout_s is None else timeout_s)
        pending = Pending(self, self.count, kind, deadline)
        record, fd = (None, None) if array is None else pack_array(array)
        try:
            content = encode(m.Asked(request=request, array=record))
            self.sending(lambda port: port.call(pending.number, content, fd, deadline))
        finally:
            if fd is not None:
                os.close(fd)
        self.pending = pending
        return pending

    def sending(self, send: Callable[[LocalPort], None]) -> None:
        """Say something; two threads take turns."""
        try:
            with self.sends:
                send(self.port)
        except ChannelTimeout:
            raise self.fail(
                WorkerTimeout, "zg/worker/timeout", "did not read its call in time and was killed"
            ) from None
        except ChannelClosed:
            raise self.crashed() from None

    def take(self, pending: Pending) -> tuple[Any, NDArray[Any] | None]:
        """Wait for the reply of pending."""
        if self.failure is not None:
            raise self.failure
        if self.pending is not pending:
            raise LocalProtocolError("zg/worker/busy", "this call's result was taken before", self.spec.backend)
        try:
            return self.classified(lambda: self.receive(pending))
        finally:
            self.pending = None

    def classified(self, do: Callable[[], T]) -> T:
        """What do gives. Death, silence and lies of the worker are told apart, and end it."""
        try:
            return do()
        except ChannelTimeout:
            raise self.fail(WorkerTimeout, "zg/worker/timeout", "did not answer in time and was killed") from None
        except ChannelClosed:
            raise self.crashed() from None
        except Lie as lie:
            raise self.fail(WorkerLied, "zg/worker/lied", f"sent {lie}") from lie

    def receive(self, pending: Pending) -> tuple[Any, NDArray[Any] | None]:
        reply, content, fd = self.port.reply(pending.deadline)
        try:
            if reply.number != pending.number:
                raise Lie(f"the reply of call {reply.number} to call {pending.number}")
            if reply.refusal is not None:
                raise rebuilt(reply.refusal)
            answered = m.read_answered(content)
            array = None if answered.array is None else unpack_array(answered.array, fd)
            return m.read_value(answered.value, pending.kind), array
        except RemoteProtocolError as error:
            if reply.refusal is not None:
                raise
            raise Lie(str(error)) from error
        finally:
            if fd is not None:
                os.close(fd)

    def ask(self, request: m.Request, kind: Any = None, array: Any = None) -> tuple[Any, NDArray[Any] | None]:
        """begin and result."""
        with self.calls:
            return self.begin(request, kind, array).result()

    def value(self, request: m.Request, kind: Any = None) -> Any:
        """The value of an answer that has no array."""
        return self.ask(request, kind)[0]

    def rows(self, request: m.Request, array: Any = None) -> F32:
        """The float32 rows of an answer; a worker that sends none has lied."""
        result = self.ask(request, None, array)[1]
        if result is None or result.dtype != np.float32 or result.ndim != 2:
            raise self.fail(WorkerLied, "zg/worker/lied", "sent no float32 rows")
        return result

    def cancel(self) -> None:
        """From another thread: cancel the call in progress, if there is one."""
        pending = self.pending
        if pending is not None:
            pending.cancel()

    # ---- the end

    def fail(self, kind: type[WorkerFailed], id: str, what: str) -> WorkerFailed:
        """Kill the child and remember why; every later call raises it again."""
        self.child.kill()
        failure = kind(id, f"worker {self.spec.backend} {what}", self.child)
        self.failure = failure
        self.discard()
        return failure

    def crashed(self) -> WorkerFailed:
        """The socket is closed: wait for the process, then say how it ended."""
        ended = self.child.wait(SHUTDOWN_S)
        how = self.child.ending() if ended else "closed its socket but did not end, and was killed"
        return self.fail(WorkerCrashed, "zg/worker/crashed", how)

    def discard(self) -> None:
        if self.failure is None:
            self.failure = LocalProtocolError("zg/worker/closed", "the worker was closed", self.spec.backend)
        self.child.discard()

    def stop(self) -> None:
        """Shut the engine down and leave; killed after SHUTDOWN_S. Idempotent; a worker that is gone is no error."""
        if self.failure is None and self.pending is None:
            try:
                self.begin(m.Shutdown(), timeout_s=SHUTDOWN_S).result()
                self.child.wait(SHUTDOWN_S)
            except ZeitgeistError as error:
                self.failure = self.failure or error
        self.discard()

    # ---- the contract

    def describe(self) -> BackendDescriptor:
        """The backend's claims."""
        return self.value(m.Describe(), BackendDescriptor)

    def load(self, path: str | Path) -> ModelDescriptor:
        """Load the model at path. Errors: `zg/backend/not-serving` with the reasons, what the model reader refuses."""
        return self.value(m.Load(path=str(Path(path).resolve())), ModelDescriptor)

    def serves(self, path: str | Path) -> tuple[str, ...]:
        """The reasons against the model at path; empty for yes."""
        return self.value(m.Serves(path=str(Path(path).resolve())), tuple[str, ...])

    def tokenize(self, text: str) -> list[int]:
        """Ids by the engine's own tokenizer."""
        return self.value(m.Tokenize(text=text), list[int])

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids."""
        return self.value(m.Detokenize(ids=tuple(ids)), bytes)

    def open(self, first: int = 0, stop: int | None = None) -> int:
        """A new session over layers [first, stop)."""
        return self.value(m.Open(first=first, stop=stop), int)

    def fork(self, session: int) -> int:
        """An independent copy."""
        return self.value(m.Fork(session=session), int)

    def truncate(self, session: int, position_count: int) -> m.SessionInfo:
        """Keep the first position_count tokens."""
        return self.value(m.Truncate(session=session, position_count=position_count), m.SessionInfo)

    def close(self, session: int) -> None:
        """Free a session."""
        self.value(m.CloseSession(session=session))

    def session_info(self, session: int) -> m.SessionInfo:
        """Layers and ids that a session holds."""
        return self.value(m.SessionInfo(session=session), m.SessionInfo)

    def prefill(self, session: int, ids: Sequence[int], chunk: int = 0, rows: Literal["last", "all"] = "all") -> F32:
        """Append ids; logits float32 [1 or len(ids), vocab]."""
        return self.rows(m.Prefill(session=session, ids=tuple(ids), chunk=chunk, rows=rows))

    def begin_prefill(self, session: int, ids: Sequence[int], chunk: int = 0) -> Pending:
        """The same, to be cancelled: `result()` gives (None, logits)."""
        return self.begin(m.Prefill(session=session, ids=tuple(ids), chunk=chunk))

    def decode(self, sessions: Sequence[int], ids: Sequence[int]) -> F32:
        """One token a session in one batch; logits float32 [sessions, vocab]."""
        return self.rows(m.Decode(sessions=tuple(sessions), ids=tuple(ids)))

    def forward_range(self, session: int, x: Sequence[int] | F32, ids: Sequence[int] = ()) -> F32:
        """Run a stage on ids or on hidden rows; ids beside hidden rows name them, so that the cache can be exported."""
        if isinstance(x, np.ndarray):
            return self.rows(m.ForwardRange(session=session, ids=tuple(ids)), x)
        return self.rows(m.ForwardRange(session=session, ids=tuple(x)))

    def export_cache(self, session: int) -> memoryview:
        """The session's cache as SafeTensors bytes, read-only; valid after the worker is gone."""
        data = self.ask(m.ExportCache(session=session))[1]
        if data is None or data.dtype != np.uint8:
            raise self.fail(WorkerLied, "zg/worker/lied", "sent no cache")
        return data.data

    def import_cache(
        self, data: bytes | memoryview, ids: Sequence[int], first: int = 0, stop: int | None = None
    ) -> m.Imported:
        """Admit and import a cache of ids for layers [first, stop). Answer: session and the conversion's report."""
        request = m.ImportCache(ids=tuple(ids), first=first, stop=stop)
        return self.ask(request, m.Imported, np.frombuffer(data, np.uint8))[0]

    def generate(
        self, ids: Sequence[int], token_count_max: int, params: SamplingParams = GREEDY, stop_ids: Sequence[int] = ()
    ) -> m.Generated:
        """Continue ids with the canonical sampler."""
        request = m.Generate(ids=tuple(ids), token_count_max=token_count_max, params=params, stop_ids=tuple(stop_ids))
        return self.value(request, m.Generated)

    def metrics(self) -> dict[str, int]:
        """Counters."""
        return self.value(m.Metrics(), dict[str, int])

    def probe(self, capability: str) -> bool:
        """True when claimed; `zg/backend/unsupported` otherwise."""
        return self.value(m.Probe(capability=capability), bool)


def check_sendable(request: m.Request) -> None:
    """Refuse by its field what MessagePack cannot hold: numbers outside 64 bits, texts with lone surrogates."""
    for field, value in msgspec.structs.asdict(request).items():
        for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
            name = f"{field}[{index}]" if isinstance(value, tuple) else field
            if isinstance(item, int) and not -(1 << 63) <= item < 1 << 63:
                raise LocalProtocolError(
                    "zg/backend/bad-argument", f"got a number of {item.bit_length()} bits, wanted 64", name
                )
            if isinstance(item, str) and not item.isascii():
                check_text(name, item)


def check_text(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        detail = f"got {text[error.start : error.start + 1]!r} at {error.start}, wanted text that UTF-8 can hold"
        raise LocalProtocolError("zg/backend/bad-argument", detail, field) from error
