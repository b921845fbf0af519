"""What a program of this process asks of its node: a completion as a stream of tokens, a tensor to a peer.

Law: a token is acknowledged when the program asks for the next one, so that a slow program holds the stream back, and
nobody else. A stream that is left before its end is cancelled. Content is read here, where it leaves the protocol.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import msgspec

from zeitgeist.core.descriptors.sampling import SamplingParams
from zeitgeist.core.effects import CancelCommand, SendCommand, SubmitCommand, TakenCommand
from zeitgeist.core.errors import REGISTRY, LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.dtype import dtype_named
from zeitgeist.core.formats.tensor import Role, RowMajor, TensorEnvelope, chunk_count_for
from zeitgeist.core.ids import ErrorId, JobId
from zeitgeist.core.limits import CHUNK_BYTES
from zeitgeist.core.trace import Event, JobEnded, TokenDelivered, TransferEnded
from zeitgeist.core.wire.messages import Reason, Submit
from zeitgeist.host.entropy import fresh_name
from zeitgeist.host.events import Subscription
from zeitgeist.host.messages import TokenContent
from zeitgeist.host.runtime import Runtime

__all__ = ["Completion", "ReceivedToken", "completion", "send_tensor"]


class ReceivedToken(msgspec.Struct, frozen=True, kw_only=True):
    """Token index of a completion: its id, the bytes it stands for, ln of its probability, alternatives."""

    index: int
    id: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Completion:
    """One job. `async for token in completion`; then `outcome` is `stop`, `length` or `cancelled`."""

    def __init__(self, runtime: Runtime, job: JobId, events: Subscription) -> None:
        self.runtime, self.job, self.events = runtime, job, events
        self.outcome = ""
        self.taken = 0

    def __aiter__(self) -> AsyncIterator[ReceivedToken]:
        return self

    async def __anext__(self) -> ReceivedToken:
        """The next token. What ended the job badly is raised."""
        if self.taken:
            self.runtime.tell(TakenCommand(job=self.job, next=self.taken))
        event = await self.events.take()
        if isinstance(event, TokenDelivered):
            self.taken = event.index + 1
            token = decode(self.runtime.content(event.handle), TokenContent)
            top = tuple((id, float(logprob)) for id, logprob in token.top)
            return ReceivedToken(index=event.index, id=token.id, data=token.data, logprob=float(token.logprob), top=top)
        assert isinstance(event, JobEnded)
        self.outcome = event.outcome
        if event.outcome in ("failed", "rejected"):
            raise raised(event.reason)
        raise StopAsyncIteration


@asynccontextmanager
async def completion(
    runtime: Runtime,
    prompt: str | Sequence[int],
    *,
    model: str,
    token_count_max: int,
    params: SamplingParams | None = None,
    stop_ids: Sequence[int] = (),
    deadline_ns: int = 0,
    job: str = "",
) -> AsyncIterator[Completion]:
    """Ask for a completion of text or ids. model: name or digest. job: the idempotency key, a fresh one by default."""
    text = isinstance(prompt, str)
    data = prompt.encode() if text else b"".join(id.to_bytes(4, "little", signed=True) for id in prompt)
    name = JobId(job or fresh_name())
    submit = Submit(
        job=name,
        model=model,
        prompt="text" if text else "ids",
        token_count_max=token_count_max,
        params=params or SamplingParams(),
        stop_ids=tuple(stop_ids),
        deadline_ns=deadline_ns,
    )

    def wanted(event: Event) -> bool:
        return isinstance(event, TokenDelivered | JobEnded) and event.job == name

    events = runtime.events.subscribe(wanted)
    asked = Completion(runtime, name, events)
    try:
        runtime.tell(SubmitCommand(submit=submit, content=runtime.payloads.put(data)))
        yield asked
    finally:
        runtime.events.unsubscribe(events)
        if not asked.outcome:
            runtime.tell(CancelCommand(job=name))
        elif asked.taken:
            runtime.tell(TakenCommand(job=name, next=asked.taken))


async def send_tensor(
    runtime: Runtime,
    peer: str,
    data: bytes | memoryview,
    *,
    dtype: str,
    shape: Sequence[int],
    role: Role = "hidden",
    channel: Literal["tensor", "cache"] = "tensor",
    purpose: str = "",
) -> TransferEnded:
    """Send little-endian, row-major bytes to peer, which has taken them whole when this returns.

    The bytes must not change until then. Errors: what the peer refused, `zg/transfer/…`.
    """
    dtype_named(dtype)
    view = memoryview(data).cast("B")
    checksum = await asyncio.to_thread(content_digest, view)
    envelope = TensorEnvelope(
        tensor=fresh_name(),
        op="",
        model="",
        job="",
        session="",
        role=role,
        shape=tuple(shape),
        dtype=dtype,
        layout=RowMajor(),
        quant="",
        byte_order="little",
        framing="chunks",
        compression="none",
        length=view.nbytes,
        checksum=checksum,
        sequence=0,
        chunk_bytes=CHUNK_BYTES,
        chunk_count=chunk_count_for(view.nbytes, CHUNK_BYTES),
    )

    def wanted(event: Event) -> bool:
        return isinstance(event, TransferEnded) and event.tensor == envelope.tensor

    events = runtime.events.subscribe(wanted)
    try:
        content = runtime.payloads.put(view, checksum)
        runtime.tell(SendCommand(peer=peer, channel=channel, envelope=envelope, content=content, purpose=purpose))
        event = await events.take()
    finally:
        runtime.events.unsubscribe(events)
    assert isinstance(event, TransferEnded)
    if event.reason is not None:
        raise raised(event.reason)
    return event


def raised(reason: Reason | None) -> ZeitgeistError:
    """What a party said, as an error; an id that this version does not know is said as text."""
    if reason is None:
        return LocalProtocolError("zg/host/stopped", "the job failed without a reason", "job")
    if ErrorId(reason.id) not in REGISTRY:
        return LocalProtocolError("zg/host/unknown-reason", f"{reason.id}: {reason.detail}", reason.field)
    return ZeitgeistError(reason.id, reason.detail, reason.field)
