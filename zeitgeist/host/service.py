"""What a worker answers: one method a request, in front of one adapter (DESIGN §5).

Law: an argument is checked before the adapter is called, a capability that is not claimed is refused before the adapter
is called, and no foreign byte of a cache reaches it unadmitted. The service knows which tokens a session holds, so that
an exported cache carries its identity; the adapter knows its engine and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.backends.base import Backend, CacheArrays, LayerRange, Session
from zeitgeist.core.descriptors.backend import CAPABILITIES, BackendDescriptor
from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError
from zeitgeist.host import messages as m
from zeitgeist.host.generation import Generations, generate
from zeitgeist.models import bundle as bundles

__all__ = ["Answer", "Held", "Service"]

T = TypeVar("T")


@dataclass
class Answer:
    """What a request gave: a value of the type its record states, and at most one array."""

    value: Any = None
    array: NDArray[np.float32] | NDArray[np.uint8] | bytes | bytearray | None = None


@dataclass
class Held:
    """A session and the ids it holds; None once hidden rows came whose ids nobody stated."""

    session: Session
    ids: list[int] | None


def never() -> bool:
    return False


class Service:
    """The requests of one parent on one backend. Single-threaded; not re-entrant.

    generations: the sequences of jobs; ended: it was shut down.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.bundle: bundles.ModelBundle | None = None
        self.model: ModelDescriptor | None = None
        self.held: dict[int, Held] = {}
        self.opened = 0
        self.generations = Generations(self)
        self.ended = False

    def answer(
        self, request: m.Request, array: NDArray[Any] | None = None, cancelled: Callable[[], bool] = never
    ) -> Answer:
        """Do request; array is the one beside the call. Errors of the engine come out as `ZeitgeistError`."""
        return self.mapped(lambda: self.dispatch(request, array, cancelled))

    def mapped(self, do: Callable[[], T]) -> T:
        """What do gives; an error of the engine in the words of `map_error`."""
        try:
            return do()
        except ZeitgeistError:
            raise
        except Exception as error:
            id, line = self.backend.map_error(error)
            raise ZeitgeistError(id, line) from error

    def dispatch(self, request: m.Request, array: NDArray[Any] | None, cancelled: Callable[[], bool]) -> Answer:
        match request:
            case m.Describe():
                return Answer(self.describe())
            case m.Load():
                return Answer(self.load(Path(request.path)))
            case m.Serves():
                return Answer(self.serves(Path(request.path)))
            case m.Tokenize():
                return Answer(self.tokenize(request.text))
            case m.Detokenize():
                return Answer(self.detokenize(request.ids))
            case m.Metrics():
                return Answer(self.metrics())
            case m.Probe():
                return Answer(self.probe(request.capability))
            case m.Generate():
                return Answer(self.generate(request, cancelled))
            case m.Shutdown():
                return Answer(self.shutdown())
            case _:
                return self.dispatch_session(request, array, cancelled)

    def dispatch_session(self, request: m.Request, array: NDArray[Any] | None, cancelled: Callable[[], bool]) -> Answer:
        match request:
            case m.Open():
                return Answer(self.open(request.first, request.stop))
            case m.Fork():
                return Answer(self.fork(request.session))
            case m.Truncate():
                return Answer(self.truncate(request.session, request.position_count))
            case m.CloseSession():
                return Answer(self.close(request.session))
            case m.SessionInfo():
                return Answer(self.session_info(request.session))
            case m.Prefill():
                return Answer(array=self.prefill(request, cancelled))
            case m.Decode():
                return Answer(array=self.decode(request.sessions, request.ids))
            case m.ForwardRange():
                return Answer(array=self.forward_range(request.session, request.ids, array))
            case m.ExportCache():
                return self.export_cache(request.session)
            case m.ImportCache():
                return Answer(self.import_cache(request, array))
        raise AssertionError(f"{type(request).__name__} has no method")

    # ---- the model

    def describe(self) -> BackendDescriptor:
        """The adapter's claims; isolation is ours to say."""
        return msgspec.structs.replace(self.backend.describe(), isolation="process")

    def load(self, path: Path) -> ModelDescriptor:
        """Open, ask `can_serve`, load. A model that cannot be served is refused with every reason."""
        if self.model is not None:
            raise bad_argument("path", path, "nothing: a worker holds one model, and one is loaded")
        bundle = bundles.open_bundle(path)
        model = bundle.descriptor()
        serve = self.backend.can_serve(model.config, model.weights)
        if not serve.ok:
            raise ZeitgeistError("zg/backend/not-serving", "; ".join(serve.reasons), "model")
        self.backend.load(bundle)
        self.bundle, self.model = bundle, model
        return model

    def serves(self, path: Path) -> tuple[str, ...]:
        """The reasons against, without loading."""
        model = bundles.open_bundle(path).descriptor()
        return self.backend.can_serve(model.config, model.weights).reasons

    @property
    def config(self) -> ModelConfig:
        """Of the loaded model."""
        return self.loaded.config

    @property
    def loaded(self) -> ModelDescriptor:
        """The loaded model; `zg/backend/no-model` before load."""
        if self.model is None:
            raise LocalProtocolError("zg/backend/no-model", "no model is loaded", "model")
        return self.model

    def claim(self, capability: str) -> None:
        """Refuse a capability that `describe` does not claim."""
        if capability not in CAPABILITIES or capability not in self.describe().capabilities:
            raise LocalProtocolError(
                "zg/backend/unsupported", f"{self.backend.describe().name} does not claim it", capability
            )

    def probe(self, capability: str) -> bool:
        """True when claimed; refused otherwise."""
        self.claim(capability)
        return True

    def metrics(self) -> Mapping[str, int]:
        """The adapter's counters, and ours."""
        self.claim("metrics")
        return {**self.backend.metrics(), "sessions_held": len(self.held)}

    def tokenize(self, text: str) -> list[int]:
        """Ids by the engine's own tokenizer."""
        self.claim("tokenize")
        _ = self.loaded
        return [int(id) for id in self.backend.tokenize(text)]

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids."""
        self.claim("tokenize")
        self.check_ids(ids)
        return bytes(self.backend.detokenize(ids))

    # ---- sessions

    def hold(self, session: Session, ids: list[int] | None) -> int:
        """Number a session."""
        self.opened += 1
        self.held[self.opened] = Held(session, ids)
        return self.opened

    def find(self, number: int) -> Held:
        """The session number, or `zg/backend/no-such-session`."""
        if number not in self.held:
            raise LocalProtocolError("zg/backend/no-such-session", f"no session {number}", "session")
        return self.held[number]

    def whole(self, number: int) -> Held:
        """A session over all layers; a stage is refused."""
        held = self.find(number)
        if held.session.layers != LayerRange(0, self.config.layer_count):
            raise bad_argument(
                "session", f"a stage {held.session.layers}", "a session over all layers; use forward_range"
            )
        return held

    def layers(self, first: int, stop: int | None) -> LayerRange:
        """A checked range. A part of the layers needs the capability layer_range."""
        count = self.config.layer_count
        layers = LayerRange(first, count if stop is None else stop)
        if not 0 <= layers.first < layers.stop <= count:
            raise bad_argument("layers", f"[{layers.first}, {layers.stop})", f"a part of [0, {count})")
        if layers != LayerRange(0, count):
            self.claim("layer_range")
        return layers

    def open(self, first: int, stop: int | None) -> int:
        """Number of a new empty session."""
        layers = self.layers(first, stop)
        return self.hold(self.backend.open(layers), [])

    def fork(self, number: int) -> int:
        """Number of an independent copy."""
        self.claim("fork")
        held = self.find(number)
        return self.hold(self.backend.fork(held.session), None if held.ids is None else list(held.ids))

    def truncate(self, number: int, position_count: int) -> m.SessionInfo:
        """Keep the first position_count tokens; growing is refused."""
        self.claim("truncate")
        held = self.find(number)
        if not 0 <= position_count <= held.session.position_count:
            raise bad_argument("position_count", position_count, f"0 to {held.session.position_count}")
        self.backend.truncate(held.session, position_count)
        if held.ids is not None:
            del held.ids[position_count:]
        return self.session_info(number)

    def close(self, number: int) -> None:
        """Free a session."""
        self.backend.close(self.find(number).session)
        del self.held[number]

    def session_info(self, number: int) -> m.SessionInfo:
        """What the session holds."""
        held = self.find(number)
        layers = held.session.layers
        return m.SessionInfo(session=number, first=layers.first, stop=layers.stop, ids=tuple(held.ids or ()))

    # ---- running

    def check_ids(self, ids: Sequence[int]) -> None:
        """Every id is in the vocabulary."""
        vocab = self.config.vocab_size
        for index, id in enumerate(ids):
            if not 0 <= id < vocab:
                raise bad_argument(f"ids[{index}]", id, f"0 to {vocab - 1}")

    def check_stop_ids(self, ids: Sequence[int]) -> None:
        """Every id that ends a text is in the vocabulary."""
        vocab = self.config.vocab_size
        for index, id in enumerate(ids):
            if not 0 <= id < vocab:
                raise bad_argument(f"stop_ids[{index}]", id, f"0 to {vocab - 1}")

    def bytes_of(self, id: int) -> bytes:
        """What a token stands for; nothing when the engine claims no tokenizer."""
        return self.detokenize([id]) if "tokenize" in self.describe().capabilities else b""

    @property
    def room(self) -> int:
        """Positions that a session may hold: what the model and the engine both allow."""
        return min(self.describe().context_max or self.config.context_length, self.config.context_length)

    def check_room(self, held: Held, count: int) -> None:
        """count more positions fit into the context."""
        room = self.room
        if count < 1:
            raise bad_argument("ids", "no tokens", "at least one")
        if held.session.position_count + count > room:
            raise LocalProtocolError(
                "zg/backend/context-full",
                f"got {count} after {held.session.position_count}, wanted at most {room} in all",
                "ids",
            )

    def prefill(self, request: m.Prefill, cancelled: Callable[[], bool]) -> NDArray[np.float32]:
        """Append ids to a whole session; logits of the last or of all."""
        self.claim("prefill")
        held = self.whole(request.session)
        self.check_ids(request.ids)
        self.check_room(held, len(request.ids))
        if request.chunk < 0:
            raise bad_argument("chunk", request.chunk, "0 or more")
        asked = cancelled if "cancel" in self.describe().capabilities else never
        logits = self.backend.prefill(
            held.session, request.ids, chunk=request.chunk, rows=request.rows, cancelled=asked
        )
        remember(held, request.ids)
        return checked(logits, 1 if request.rows == "last" else len(request.ids), self.config.vocab_size)

    def decode(self, numbers: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
        """One token for each session in one batch."""
        self.claim("decode")
        if not numbers or len(numbers) != len(ids) or len(set(numbers)) != len(numbers):
            raise bad_argument(
                "sessions", f"{len(numbers)} for {len(ids)} ids", "one id for each of some distinct sessions"
            )
        if len(numbers) > 1:
            self.claim("batched_decode")
        if len(numbers) > (limit := max(1, self.describe().batch_max)):
            raise bad_argument("sessions", len(numbers), f"at most {limit} in a batch")
        held = [self.whole(number) for number in numbers]
        self.check_ids(ids)
        for one in held:
            self.check_room(one, 1)
        logits = self.backend.decode([one.session for one in held], ids)
        for one, id in zip(held, ids, strict=True):
            remember(one, [id])
        return checked(logits, len(ids), self.config.vocab_size)

    def forward_range(self, number: int, ids: Sequence[int], hidden: NDArray[Any] | None) -> NDArray[np.float32]:
        """Run a stage. A first stage takes ids, a later one hidden rows (and ids as names of the rows)."""
        self.claim("layer_range")
        held = self.find(number)
        self.check_ids(ids)
        first = held.session.layers.first == 0
        if first != (hidden is None):
            raise bad_argument(
                "array",
                "none" if hidden is None else hidden.shape,
                "no array: the first stage takes ids" if first else "hidden rows: not the first stage",
            )
        if hidden is not None:
            self.check_hidden(hidden, ids)
        rows = len(ids) if hidden is None else len(hidden)
        self.check_room(held, rows)
        result = self.backend.forward_range(held.session, ids if hidden is None else hidden)
        remember(held, ids if ids else None)
        last = held.session.layers.stop == self.config.layer_count
        return checked(result, rows, self.config.vocab_size if last else self.config.hidden_size)

    def check_hidden(self, hidden: NDArray[Any], ids: Sequence[int]) -> None:
        """float32 [rows, hidden_size], finite, as many rows as ids when ids are stated."""
        wanted = f"float32 [{len(ids) or 'rows'}, {self.config.hidden_size}], finite"
        shape = hidden.ndim == 2 and hidden.shape[1] == self.config.hidden_size and (not ids or len(ids) == len(hidden))
        if hidden.dtype != np.float32 or not shape:
            raise bad_argument("array", f"{hidden.dtype} {list(hidden.shape)}", wanted)
        if not np.isfinite(hidden).all():
            raise bad_argument("array", "NaN or Inf", wanted)

    def generate(self, request: m.Generate, cancelled: Callable[[], bool]) -> m.Generated:
        """Continue ids until a stop id or token_count_max; the session is closed afterwards."""
        number = self.open(0, None)
        try:
            return generate(self, number, request, cancelled)
        finally:
            self.close(number)

    # ---- caches

    def export_cache(self, number: int) -> Answer:
        """The session's cache as SafeTensors bytes, with identity."""
        self.claim("cache_export")
        from zeitgeist.host.cache_travel import export_cache

        held = self.find(number)
        return Answer(array=export_cache(self, held))

    def import_cache(self, request: m.ImportCache, data: NDArray[Any] | None) -> m.Imported:
        """Admit, convert, import. Nothing reaches the adapter before admission."""
        self.claim("cache_import")
        from zeitgeist.host.cache_travel import admitted

        if data is None or data.dtype != np.uint8 or data.ndim != 1:
            raise bad_argument("array", "none" if data is None else data.dtype, "SafeTensors bytes")
        layers = self.layers(request.first, request.stop)
        self.check_ids(request.ids)
        cache, report = admitted(self, data, request.ids, layers)
        session = self.backend.import_cache(cache, layers)
        return m.Imported(session=self.hold(session, list(request.ids)), report=report)

    def cache_of(self, held: Held) -> CacheArrays:
        """What the adapter exports, with its row count checked."""
        cache = self.backend.export_cache(held.session)
        if cache.position_count != held.session.position_count:
            raise RemoteProtocolError(
                "zg/backend/bad-result", f"{cache.position_count} of {held.session.position_count} rows", "export_cache"
            )
        return cache

    def shutdown(self) -> None:
        """Close every session and free the engine."""
        for number in sorted(self.held):
            self.close(number)
        self.backend.shutdown()
        self.ended = True


def remember(held: Held, ids: Sequence[int] | None) -> None:
    held.ids = None if ids is None or held.ids is None else [*held.ids, *ids]


def checked(result: Any, rows: int, width: int) -> NDArray[np.float32]:
    if not isinstance(result, np.ndarray) or result.dtype != np.float32 or result.shape != (rows, width):
        got = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise RemoteProtocolError("zg/backend/bad-result", f"got {got}, wanted float32 ({rows}, {width})", "result")
    return result


def bad_argument(field: str, got: object, wanted: object) -> LocalProtocolError:
    return LocalProtocolError("zg/backend/bad-argument", f"got {str(got)[:80]}, wanted {wanted}", field)
