"""What every array engine does alike around its forward pass: sessions, chunks, cancellation, counters, checks (I1).

Law: this file moves no number. A subclass supplies one primitive, `step`, and the copying of its cache state; here
stands only the order of calls. A session whose engine fails in the middle of a call holds what it held before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zeitgeist.backends.base import F32, CacheArrays, LayerRange, Session, never
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.kv import CacheForm

__all__ = ["BATCH_MAX", "ArraySession", "Rows", "SessionEngine", "choose"]

Rows = Literal["none", "last", "all"]

BATCH_MAX = 64
"""Sessions in one `decode`: the width that the batch tests cover; a wider batch is the caller's loop."""

COUNTERS = (
    "tokens_prefilled",
    "tokens_decoded",
    "rows_forwarded",
    "batches",
    "forks",
    "cache_exports",
    "cache_imports",
    "cancelled",
)


@dataclass
class ArraySession(Session):
    """A session and the engine's cache of it; `cache` is None once closed. Only the adapter reads `cache`."""

    cache: Any = None


class SessionEngine(ABC):
    """Sessions around `step`. A subclass loads the model, sets `config`, and describes itself."""

    chunk_default: int

    def __init__(self) -> None:
        self.config: ModelConfig | None = None
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.sessions_open = 0

    @abstractmethod
    def new_cache(self, layers: LayerRange) -> Any:
        """An empty engine cache for these layers."""

    @abstractmethod
    def copy_cache(self, cache: Any) -> Any:
        """A copy that shares nothing writable with cache."""

    @abstractmethod
    def crop_cache(self, session: ArraySession, position_count: int) -> None:
        """Forget the positions from position_count on."""

    @abstractmethod
    def step(self, session: ArraySession, x: Sequence[int] | F32, rows: Rows) -> F32:
        """Run x through the session's stage and append to its cache. Returns hidden rows, or logits of the rows asked
        for when the stage is last (`none`: shape [0, vocab]). The caller keeps `position_count`."""

    @abstractmethod
    def step_batch(self, sessions: Sequence[ArraySession], ids: Sequence[int]) -> F32:
        """One id for each of at least two whole-model sessions; logits [len(sessions), vocab]."""

    @abstractmethod
    def read_cache(self, session: ArraySession) -> tuple[CacheForm, list[Any], list[Any]]:
        """(form, K per layer, V per layer): NumPy copies, [position, kv_head, head_dim]."""

    @abstractmethod
    def write_cache(self, layers: LayerRange, cache: CacheArrays) -> Any:
        """An engine cache holding copies of the arrays."""

    def open(self, layers: LayerRange | None = None) -> Session:
        """A new empty session over all layers or a stage of them."""
        return self.admit(ArraySession(layers=self.checked_range(layers)))

    def admit(self, session: ArraySession) -> ArraySession:
        if session.cache is None:
            session.cache = self.new_cache(session.layers)
        self.sessions_open += 1
        return session

    def fork(self, session: Session) -> Session:
        """An independent copy of the cache; costs one copy of K and V."""
        source = self.live(session)
        self.counters["forks"] += 1
        return self.admit(
            ArraySession(
                layers=source.layers, position_count=source.position_count, cache=self.copy_cache(source.cache)
            )
        )

    def truncate(self, session: Session, position_count: int) -> None:
        """Keep the first position_count tokens. Growing is refused."""
        held = self.live(session)
        if not 0 <= position_count <= held.position_count:
            raise bad("position_count", position_count, f"0 to {held.position_count}, what the session holds")
        self.crop_cache(held, position_count)
        held.position_count = position_count

    def close(self, session: Session) -> None:
        """Drop the cache; the engine frees it at once (CPU) or to its pool (GPU)."""
        self.live(session).cache = None
        self.sessions_open -= 1

    def prefill(
        self,
        session: Session,
        ids: Sequence[int],
        *,
        chunk: int = 0,
        rows: Literal["last", "all"] = "all",
        cancelled: Callable[[], bool] = never,
    ) -> F32:
        """Append ids in chunks; logits of the last or of all appended positions. Cancel latency: one chunk."""
        held = self.live(session)
        self.require_whole(held)
        self.check_ids(ids)
        self.check_room(held, len(ids))
        if not ids or chunk < 0:
            raise bad(
                "ids" if not ids else "chunk",
                len(ids) if not ids else chunk,
                "at least one id" if not ids else "0 or more",
            )
        kept = held.position_count
        try:
            parts = list(self.chunks(held, ids, chunk or self.chunk_default, rows, cancelled))
        except BaseException:
            self.crop_cache(held, kept)
            held.position_count = kept
            raise
        self.counters["tokens_prefilled"] += len(ids)
        return np.concatenate(parts)

    def chunks(
        self,
        session: ArraySession,
        ids: Sequence[int],
        size: int,
        rows: Literal["last", "all"],
        cancelled: Callable[[], bool],
    ):
        for start in range(0, len(ids), size):
            if cancelled():
                self.counters["cancelled"] += 1
                raise ZeitgeistError("zg/backend/cancelled", f"after {start} of {len(ids)} tokens", "prefill")
            part = ids[start : start + size]
            is_last = start + size >= len(ids)
            yield self.step(session, part, rows if rows == "all" or is_last else "none")
            session.position_count += len(part)

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        """One token for each session; row i are the logits after ids[i]. One session may not stand twice."""
        held = [self.live(session) for session in sessions]
        self.check_ids(ids)
        if not 1 <= len(held) <= BATCH_MAX or len(held) != len(ids):
            raise bad("sessions", f"{len(held)} sessions, {len(ids)} ids", f"1 to {BATCH_MAX} of both")
        if len({id(session) for session in held}) != len(held):
            raise bad("sessions", "one session twice", "each session once")
        for session in held:
            self.require_whole(session)
            self.check_room(session, 1)
        logits = self.step(held[0], ids, "all") if len(held) == 1 else self.step_batch(held, ids)
        for session in held:
            session.position_count += 1
        self.counters["tokens_decoded"] += len(held)
        self.counters["batches"] += 1
        return logits

    def forward_range(self, session: Session, x: Sequence[int] | F32) -> F32:
        """Run the session's stage on ids (first == 0) or hidden rows; hidden rows, or logits of every row when last."""
        held = self.live(session)
        if held.layers.first == 0:
            ids = [int(value) for value in x]
            self.check_ids(ids)
            x = ids
        else:
            x = self.checked_hidden(x)
        if len(x) == 0:
            raise bad("x", "no rows", "at least one row")
        self.check_room(held, len(x))
        rows = self.step(held, x, "all")
        held.position_count += len(x)
        self.counters["rows_forwarded"] += len(x)
        return rows

    def export_cache(self, session: Session) -> CacheArrays:
        """K and V as NumPy copies: the caller owns them, later decoding does not touch them."""
        held = self.live(session)
        form, k, v = self.read_cache(held)
        self.counters["cache_exports"] += 1
        return CacheArrays(form=form, k=k, v=v, position_count=held.position_count)

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> Session:
        """A new session on copies of the arrays: they may be freed or overwritten after the call."""
        stage = self.checked_range(layers)
        if len(cache.k) != stage.stop - stage.first or len(cache.v) != len(cache.k):
            raise bad("layers", f"{len(cache.k)} of K, {len(cache.v)} of V", f"{stage.stop - stage.first} of both")
        forms = self.describe().cache_forms  # type: ignore[attr-defined]
        if cache.form not in forms:
            raise bad("form", cache.form, " or ".join(map(str, forms)))
        self.counters["cache_imports"] += 1
        return self.admit(
            ArraySession(layers=stage, position_count=cache.position_count, cache=self.write_cache(stage, cache))
        )

    def metrics(self) -> Mapping[str, int]:
        """Counters since load, and the sessions open now."""
        return {**self.counters, "sessions_open": self.sessions_open}

    def model_config(self) -> ModelConfig:
        if self.config is None:
            raise LocalProtocolError("zg/backend/no-model", "load a model first")
        return self.config

    def live(self, session: Session) -> ArraySession:
        if not isinstance(session, ArraySession) or session.cache is None:
            raise LocalProtocolError("zg/backend/no-such-session", "the session is closed or foreign", "session")
        return session

    def is_last(self, layers: LayerRange) -> bool:
        return layers.stop == self.model_config().layer_count

    def require_whole(self, session: ArraySession) -> None:
        if session.layers.first != 0 or not self.is_last(session.layers):
            raise bad(
                "session",
                f"a stage of layers {session.layers.first} to {session.layers.stop}",
                "a session over all layers; a stage runs by forward_range",
            )

    def checked_range(self, layers: LayerRange | None) -> LayerRange:
        count = self.model_config().layer_count
        stage = layers or LayerRange(0, count)
        if not 0 <= stage.first < stage.stop <= count:
            raise bad("layers", f"[{stage.first}, {stage.stop})", f"a non-empty range in [0, {count})")
        return stage

    def check_ids(self, ids: Sequence[int]) -> None:
        # An id past the table is read from beside the table by some engines, without an error.
        size = self.model_config().vocab_size
        for token in ids:
            if not 0 <= token < size:
                raise bad("ids", token, f"0 to {size - 1}")

    def check_room(self, session: ArraySession, count: int) -> None:
        room = self.model_config().context_length - session.position_count
        if count > room:
            raise LocalProtocolError("zg/backend/context-full", f"{count} more tokens, room for {room}", "ids")

    def checked_hidden(self, x: Any) -> F32:
        rows = np.asarray(x)
        width = self.model_config().hidden_size
        if rows.ndim != 2 or rows.shape[1] != width or rows.dtype != np.float32:
            raise bad("x", f"{rows.dtype} {rows.shape}", f"float32 [rows, {width}]")
        return rows


def bad(field: str, got: object, wanted: object) -> LocalProtocolError:
    """The refusal of a call that does not fit the model or the session."""
    return LocalProtocolError("zg/backend/bad-request", f"got {str(got)[:80]}, wanted {str(wanted)[:160]}", field)


def choose(options: Mapping[str, str], allowed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The value of every option: what was given, else the first allowed. Unknown names and values are refused."""
    for name, value in options.items():
        wanted = allowed.get(name)
        if wanted is None:
            raise LocalProtocolError("zg/backend/bad-argument", f"unknown option, known are {', '.join(allowed)}", name)
        if value not in wanted:
            raise LocalProtocolError(
                "zg/backend/bad-argument", f"got {value[:40]!r}, wanted {' or '.join(wanted)}", name
            )
    return {name: options.get(name, values[0]) for name, values in allowed.items()}
