"""A node's end of a worker's socket, small and blocking: the real session and gate, job frames both ways. For tests."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from zeitgeist.core.effects import FrameArrived
from zeitgeist.core.formats.canonical import Record, decode
from zeitgeist.core.gate import Admitted
from zeitgeist.core.wire import messages as w
from zeitgeist.core.wire.payload import split_payload
from zeitgeist.host import messages as m
from zeitgeist.host.channel import Channel
from zeitgeist.host.child import WorkerSpec
from zeitgeist.host.launch import start_worker_process
from zeitgeist.host.local_port import LINK, LocalPort

__all__ = ["MODEL", "JobParent", "assign", "ids_of"]

MODEL = Path(__file__).parents[2] / "fixtures/models/zg-tiny"
WAIT_S = 20.0


def ids_of(*ids: int) -> bytes:
    """A prompt of ids as content."""
    return np.asarray(ids, "<i4").tobytes()


class JobParent:
    """A worker that holds zg-tiny, its session ready. said: what it said that is no word of the
    session; content: beside the last of it."""

    def __init__(self, spec: WorkerSpec | None = None) -> None:
        self.spec = spec or WorkerSpec(backend="reference", model=str(MODEL), name="w1", cluster="home")
        self.child, sock = start_worker_process(self.spec)
        self.channel = Channel(sock)
        self.port = LocalPort(self.channel, self.spec.cluster, WAIT_S, ("session", "call", "job"))
        try:
            self.up = self.port.shake(time.monotonic() + WAIT_S)
        except BaseException:
            self.child.discard()
            raise
        self.said: list[Record] = []
        self.content = b""
        self.tokens: dict[str, list[m.TokenContent]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.discard()

    @property
    def model(self) -> str:
        """The digest that an attempt has to name."""
        return self.up.models[0].descriptor.model

    def say(self, record: Record, content: bytes = b"") -> None:
        """One frame."""
        self.port.say(record, 0, content, None, time.monotonic() + WAIT_S)

    def submit(self, job: str, prompt: Sequence[int], **changed: Any) -> None:
        """An attempt with a prompt of ids."""
        self.say(assign(job, self.model, **changed), ids_of(*prompt))

    def hear(self, wait_s: float = WAIT_S) -> Record:
        """The next record that is no word of the session."""
        frame, _ = self.channel.receive(time.monotonic() + wait_s)
        record, content = split_payload(frame.channel, frame.payload)
        arrived = FrameArrived(
            link=LINK,
            channel=int(frame.channel),
            kind=frame.kind,
            flags=int(frame.flags),
            stream=frame.stream,
            sequence=frame.sequence,
            record=bytes(record),
        )
        standing = self.port.sessions.standing(LINK)
        assert standing is not None
        admitted = self.port.gate.frame(arrived, standing)
        assert isinstance(admitted, Admitted), admitted
        said = admitted.heard.record
        if isinstance(said, w.Token):
            self.tokens.setdefault(said.job, []).append(decode(content, m.TokenContent))
        self.said.append(said)
        self.content = bytes(content)
        return said

    def until(self, kind: type[Record], **fields: Any) -> Any:
        """Hear until a record of kind with these fields."""
        while True:
            said = self.hear()
            if isinstance(said, kind) and all(getattr(said, name) == value for name, value in fields.items()):
                return said

    def drain(self, job: str) -> w.Finished:
        """Acknowledge every token of job until its last word."""
        while True:
            said = self.hear()
            if isinstance(said, w.Token) and said.job == job:
                self.say(w.TokenAck(job=job, attempt=said.attempt, next=said.index + 1))
            if isinstance(said, w.Finished) and said.job == job:
                return said


def assign(job: str, model: str, **changed: Any) -> w.Assign:
    """An attempt."""
    fields: dict[str, Any] = {
        "job": job,
        "owner": "n1",
        "owner_epoch": 1,
        "attempt": 1,
        "plan": model,
        "model": model,
        "prompt": "ids",
        "token_count_max": 8,
        "window": 64,
    }
    return w.Assign(**{**fields, **changed})
