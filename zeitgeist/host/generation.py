"""The loop around an engine: prefill, choose with the canonical sampler, decode, until a stop id or the limit (E4).

Law: the token at an index depends on logits, parameters and absolute position only (`sampling.py`), so that a sequence
can move to another engine between two tokens. The stop id itself is delivered as the last token. `generate` runs one
sequence to its end; `Generations` holds the sequences of jobs, a step at a time, and when a step comes is not its
decision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import JobId, Real
from zeitgeist.core.wire.messages import Assign
from zeitgeist.host import messages as m
from zeitgeist.sampling import SampledToken, check_params, sample

if TYPE_CHECKING:
    from zeitgeist.host.service import Service

__all__ = ["Generations", "Stepped", "generate"]

F32 = NDArray[np.float32]


def generate(service: "Service", session: int, request: m.Generate, cancelled: Callable[[], bool]) -> m.Generated:
    """Continue request.ids in an empty session. Errors: of prefill, decode and sampler, `zg/backend/cancelled`."""
    check_params(request.params, service.config.vocab_size)
    if request.token_count_max < 1:
        raise LocalProtocolError(
            "zg/backend/bad-argument", f"got {request.token_count_max}, wanted at least 1", "token_count_max"
        )
    ids = list(request.ids)
    logits = service.prefill(m.Prefill(session=session, ids=request.ids, rows="last"), cancelled)
    tokens: list[m.GeneratedToken] = []
    while True:
        chosen = sample(logits[0], request.params, len(ids))
        tokens.append(
            m.GeneratedToken(id=chosen.id, data=service.detokenize([chosen.id]), logprob=chosen.logprob, top=chosen.top)
        )
        ids.append(chosen.id)
        if chosen.id in request.stop_ids:
            return m.Generated(tokens=tuple(tokens), finish="stop")
        if len(tokens) == request.token_count_max:
            return m.Generated(tokens=tuple(tokens), finish="length")
        if cancelled():
            raise LocalProtocolError("zg/backend/cancelled", f"after {len(tokens)} tokens", "generate")
        logits = service.decode([session], [chosen.id])


@dataclass(frozen=True)
class Stepped:
    """What one step gave one job. content: a `TokenContent`; last: why no more follows; refusal: of this job alone."""

    job: JobId
    content: bytes = b""
    last: Literal["", "stop", "length", "failed"] = ""
    refusal: ZeitgeistError | None = None


@dataclass
class Generating:
    """A job's sequence. Either its next row of logits is here, or the token that makes it is still to be decoded."""

    session: int
    assign: Assign
    ids: list[int]
    row: F32 | None = None
    stop_ids: frozenset[int] = frozenset()
    sent: int = 0


@dataclass
class Generations:
    """The sequences of all jobs that an engine generates for."""

    service: "Service"
    held: dict[JobId, Generating] = field(default_factory=dict)

    def prompt(self, assign: Assign, content: bytes | memoryview, cancelled: Callable[[], bool]) -> int:
        """Open a session for a job and read its prompt; the number of its tokens.

        Errors: of tokenizer, prefill and sampler, `zg/backend/cancelled`; the session is closed again then.
        """
        service, job = self.service, JobId(assign.job)
        check_params(assign.params, service.config.vocab_size)
        ids = prompt_ids(service, assign, content)
        service.check_stop_ids(assign.stop_ids)
        session = service.open(0, None)
        try:
            rows = service.prefill(m.Prefill(session=session, ids=tuple(ids), rows="last"), cancelled)
        except BaseException:
            service.close(session)
            raise
        self.close((job,))
        stop = frozenset(assign.stop_ids)
        self.held[job] = Generating(session=session, assign=assign, ids=ids, row=rows[0], stop_ids=stop)
        return len(ids)

    def step(self, jobs: Sequence[JobId]) -> list[Stepped]:
        """One token for each of jobs, in one batch of the engine for those that need it. An error is of all of them."""
        behind = [self.held[job] for job in jobs if self.held[job].row is None]
        if behind:
            rows = self.service.decode([one.session for one in behind], [one.ids[-1] for one in behind])
            for one, row in zip(behind, rows, strict=True):
                one.row = row
        return [self.choose(job, self.held[job]) for job in jobs]

    def choose(self, job: JobId, one: Generating) -> Stepped:
        """The next token of one sequence. A row that cannot be sampled from fails this job alone."""
        assert one.row is not None, "a sequence has logits before it has a token"
        try:
            chosen = sample(one.row, one.assign.params, len(one.ids))
            content = encode(content_of(chosen, self.service.bytes_of(chosen.id)))
        except ZeitgeistError as error:
            return Stepped(job=job, last="failed", refusal=error)
        one.row = None
        one.ids.append(chosen.id)
        one.sent += 1
        return Stepped(job=job, content=content, last=self.end_of(one))

    def end_of(self, one: Generating) -> Literal["", "stop", "length"]:
        """Why the token chosen last is the last, "" when it is not. A full context ends a job as its limit does."""
        if one.ids[-1] in one.stop_ids:
            return "stop"
        full = len(one.ids) > self.service.room
        return "length" if full or one.sent == one.assign.token_count_max else ""

    def close(self, jobs: Sequence[JobId]) -> None:
        """Free the sessions of jobs; one that has none is no error."""
        for job in jobs:
            one = self.held.pop(job, None)
            if one is not None:
                self.service.close(one.session)


def prompt_ids(service: "Service", assign: Assign, content: bytes | memoryview) -> list[int]:
    """The ids that a prompt says, or those that the engine's tokenizer makes of its text."""
    if assign.prompt == "text":
        try:
            return service.tokenize(bytes(content).decode())
        except UnicodeDecodeError as error:
            raise LocalProtocolError("zg/backend/bad-argument", f"got {error}, wanted UTF-8", "prompt") from error
    if len(content) % 4:
        raise LocalProtocolError(
            "zg/backend/bad-argument", f"got {len(content)} bytes, wanted little-endian int32", "prompt"
        )
    return np.frombuffer(content, "<i4").tolist()


def content_of(chosen: SampledToken, data: bytes) -> m.TokenContent:
    """A token as it travels."""
    top = tuple((int(id), real(value)) for id, value in chosen.top)
    return m.TokenContent(id=chosen.id, data=data, logprob=real(chosen.logprob), top=top)


def real(value: float) -> Real:
    """A float32 as the shortest text that reads back as it; Python prints it, since releases of NumPy differ."""
    return Real(repr(float(str(np.float32(value)))))
