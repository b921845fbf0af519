"""What a worker's core wants computed, carried out on a service: contents in, contents out (DESIGN §5).

Law: it decides nothing and raises nothing: what cannot be computed is a refusal in the answer. Content stays here by
handle, with the descriptor of shared memory that came or goes beside it; both are let go together.
"""

import os
from collections.abc import Callable
from typing import assert_never

from zeitgeist.core.effects import Compute, Computed, PayloadRef, Release, TokenOut
from zeitgeist.core.errors import DETAIL_CHARACTERS_MAX, FIELD_CHARACTERS_MAX, ZeitgeistError, bounded, refuse
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.ids import Handle
from zeitgeist.core.limits import CONTROL_BYTES_MAX
from zeitgeist.core.wire.messages import Reason
from zeitgeist.host.generation import Stepped
from zeitgeist.host.memory import pack_array, unpack_array
from zeitgeist.host.messages import Answered, read_asked, write_value
from zeitgeist.host.payloads import Payloads
from zeitgeist.host.service import Answer, Service

__all__ = ["CONTENT_BYTES_MAX", "Engine", "reason_of"]

HELD_BYTES_MAX = 1 << 30
"""1 GiB of contents at once: the 64 calls and 256 prompts that may wait, each at most 1 MiB, take a third of it."""
CONTENT_BYTES_MAX = CONTROL_BYTES_MAX - 4096
"""What fits into a frame behind a record: a reply's reason has at most 1,400 characters of 3 bytes, else no content."""


def reason_of(error: ZeitgeistError) -> Reason:
    """Bounded once more at the door: an error whose texts were changed after it was made must not end the worker."""
    return Reason(
        id=error.id,
        detail=bounded(error.detail, DETAIL_CHARACTERS_MAX),
        field=bounded(error.field, FIELD_CHARACTERS_MAX),
    )


class Engine:
    """A service, and the contents that the core knows by handle."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.payloads = Payloads(HELD_BYTES_MAX, HELD_BYTES_MAX)
        self.descriptors: dict[Handle, int] = {}

    # ---- contents

    def put(self, content: bytes | memoryview, fd: int | None = None) -> PayloadRef:
        """Keep content, and the descriptor beside it, until it is released."""
        held = self.payloads.put(content)
        if fd is not None:
            self.descriptors[held.handle] = fd
        return held

    def get(self, content: PayloadRef | None) -> tuple[bytes | memoryview, int | None]:
        """(bytes, descriptor) of a content; nothing for none."""
        if content is None:
            return b"", None
        return self.payloads.get(content.handle), self.descriptors.get(content.handle)

    def release(self, op: Release) -> None:
        """Nobody needs it any more."""
        self.payloads.release(op)
        fd = self.descriptors.pop(op.handle, None)
        if fd is not None:
            os.close(fd)

    # ---- computes

    def compute(self, call: Compute, cancelled: Callable[[], bool]) -> Computed:
        """Do it. cancelled is asked between two chunks of a prompt."""
        try:
            return self.service.mapped(lambda: self.carry_out(call, cancelled))
        except ZeitgeistError as error:
            return Computed(refusal=reason_of(error))

    def carry_out(self, call: Compute, cancelled: Callable[[], bool]) -> Computed:
        match call.op:
            case "request":
                return self.request(call, cancelled)
            case "prompt":
                assert call.assign is not None, "a prompt is of an attempt"
                count = self.service.generations.prompt(call.assign, self.get(call.content)[0], cancelled)
                return Computed(prompt_count=count)
            case "decode":
                return Computed(tokens=tuple(self.token(one) for one in self.service.generations.step(call.jobs)))
            case "close":
                self.service.generations.close(call.jobs)
                return Computed()
            case _:
                assert_never(call.op)

    def request(self, call: Compute, cancelled: Callable[[], bool]) -> Computed:
        """Read the request, answer it."""
        content, fd = self.get(call.content)
        asked = read_asked(content)
        array = None if asked.array is None else unpack_array(asked.array, fd)
        return Computed(content=self.answered(self.service.answer(asked.request, array, cancelled)))

    def answered(self, answer: Answer) -> PayloadRef:
        """An answer as content. One that no frame can carry is refused."""
        record, fd = (None, None) if answer.array is None else pack_array(answer.array)
        try:
            content = encode(Answered(value=write_value(answer.value), array=record))
            if len(content) > CONTENT_BYTES_MAX:
                raise refuse("zg/wire/frame-too-large", "answer", f"{len(content)} bytes", CONTENT_BYTES_MAX)
            return self.put(content, fd)
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise

    def token(self, one: Stepped) -> TokenOut:
        """One job's part of a step."""
        refusal = None if one.refusal is None else reason_of(one.refusal)
        return TokenOut(
            job=one.job, content=self.put(one.content) if one.content else None, last=one.last, refusal=refusal
        )
