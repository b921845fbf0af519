"""Mutants of tokenizer, sessions and of the process: BOS, UTF-8, limits, cancels, crashes, silence, vanity."""

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.host import messages as m
from zeitgeist.host.service import Held, Service

__all__ = [
    "Aborts",
    "CancelIgnored",
    "ClosedStaysOpen",
    "DoublesBos",
    "Hangs",
    "LosesPartialUtf8",
    "OverflowSlides",
    "ParsesSpecials",
    "SaysYes",
    "StripsBlanks",
    "WrapsIds",
]


class DoublesBos(Service):
    """Puts BOS in front of a text that has one already, or shall have none."""

    def tokenize(self, text: str) -> list[int]:
        return [0, *super().tokenize(text)]


class LosesPartialUtf8(Service):
    """Decodes each piece as UTF-8 of its own, with replacement characters."""

    def detokenize(self, ids: Sequence[int]) -> bytes:
        return super().detokenize(ids).decode("utf-8", errors="replace").encode()


class ParsesSpecials(Service):
    """Names of special tokens in a text become those tokens."""

    def tokenize(self, text: str) -> list[int]:
        assert self.bundle is not None
        return self.bundle.tokenizer.encode(text, specials=True)


class StripsBlanks(Service):
    """Blanks at the ends of a text are lost."""

    def tokenize(self, text: str) -> list[int]:
        return super().tokenize(text.strip(" ") or text)


class WrapsIds(Service):
    """Ids outside the vocabulary are wrapped into it, as an unchecked index does."""

    def check_ids(self, ids: Sequence[int]) -> None:
        """Whatever."""

    def prefill(self, request: m.Prefill, cancelled: Any) -> NDArray[np.float32]:
        ids = tuple(id % self.config.vocab_size for id in request.ids)
        return super().prefill(
            m.Prefill(session=request.session, ids=ids, chunk=request.chunk, rows=request.rows), cancelled
        )


class OverflowSlides(Service):
    """What is past the context pushes out the oldest tokens, without a word."""

    def check_room(self, held: Held, count: int) -> None:
        over = held.session.position_count + count - self.config.context_length
        if over > 0:
            self.backend.truncate(held.session, max(0, held.session.position_count - over))
        super().check_room(held, min(count, self.config.context_length - held.session.position_count))

    def prefill(self, request: m.Prefill, cancelled: Any) -> NDArray[np.float32]:
        kept = m.Prefill(
            session=request.session,
            ids=request.ids[-self.config.context_length :],
            chunk=request.chunk,
            rows=request.rows,
        )
        return super().prefill(kept if len(request.ids) > self.config.context_length else request, cancelled)


class ClosedStaysOpen(Service):
    """Closing a session frees nothing; it can be used as before."""

    def close(self, number: int) -> None:
        self.find(number)


class CancelIgnored(Service):
    """A cancelled prefill runs to its end."""

    def prefill(self, request: m.Prefill, cancelled: Any) -> NDArray[np.float32]:
        return super().prefill(request, lambda: bool(cancelled()) and False)


class SaysYes(Service):
    """Claims whatever it is asked for."""

    def probe(self, capability: str) -> bool:
        return True


class Aborts(Service):
    """The engine's own assertion ends the process in the third prefill."""

    calls = 0

    def prefill(self, request: m.Prefill, cancelled: Any) -> NDArray[np.float32]:
        self.calls += 1
        if self.calls == 3:
            os.abort()
        return super().prefill(request, cancelled)


class Hangs(Service):
    """Truncation never answers, with the interpreter locked."""

    def truncate(self, number: int, position_count: int) -> m.SessionInfo:
        ctypes.PyDLL(None).pause()
        return super().truncate(number, position_count)
