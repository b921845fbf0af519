"""The backend contract (I1, DESIGN §5): what an adapter implements, synchronous, on one thread, in its own process.

Law: an adapter knows its engine and nothing else. It never sees an identity digest, a foreign form, an unchecked byte:
the worker validates and converts before it calls, and adds identities after. What an adapter does not implement it
does not claim in `describe().capabilities`; the worker refuses the rest with `zg/backend/unsupported`.

Arrays. ids: int sequences. logits: float32 `[rows, vocab]`. hidden: float32 `[rows, hidden_size]`, the residual stream
*between* layers (before the final norm). K and V: `[position, kv_head, head_dim]` in the dtype of the form, or uint8
`[position, kv_head, row_bytes]` when block-quantised. Returned arrays belong to the caller: an adapter copies out of
engine memory. Arrays passed in may be read only during the call and never written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.core.formats.kv import CacheForm
from zeitgeist.models.bundle import ModelBundle

__all__ = ["Backend", "BackendFactory", "CacheArrays", "LayerRange", "Serve", "Session", "Variant"]

F32 = NDArray[np.float32]


def never() -> bool:
    """The cancellation test of a call that nobody cancels."""
    return False


@dataclass(frozen=True)
class LayerRange:
    """Layers `[first, stop)`. A stage with first == 0 takes ids, one with stop == layer_count returns logits."""

    first: int
    stop: int


@dataclass
class Session:
    """One sequence inside the engine. Adapters subclass it with their own state.

    position_count: tokens held, 0 after open. layers: the stage it runs.
    """

    layers: LayerRange
    position_count: int = 0


@dataclass(frozen=True)
class CacheArrays:
    """K and V of the session's layers, in order, exactly `position_count` rows each, in `form`."""

    form: CacheForm
    k: list[NDArray[Any]]
    v: list[NDArray[Any]]
    position_count: int


@dataclass(frozen=True)
class Serve:
    """Answer of `can_serve`: every reason against, with the field named; empty reasons mean yes."""

    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when there is no reason against."""
        return not self.reasons


@dataclass(frozen=True)
class Variant:
    """A named set of options for a backend: `llama_cpp:fa`. `about` is one line for `zg-certify subjects`."""

    name: str
    about: str
    options: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One engine with at most one model. Methods raise `ZeitgeistError`; anything else goes through `map_error`."""

    def describe(self) -> BackendDescriptor:
        """Claims; complete after `load`. Cheap, no side effect, callable before load."""
        ...

    def can_serve(self, config: ModelConfig, weights: str) -> Serve:
        """Can this engine run such a model? Without loading it. weights: `ModelDescriptor.weights`."""
        ...

    def load(self, bundle: ModelBundle) -> None:
        """Load weights and tokenizer into the engine. Scratch files go to the worker's own `tempfile.gettempdir()`."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Ids of text by the engine's *own* tokenizer; no BOS added; special-token strings are plain text."""
        ...

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids, exactly; special tokens give their text; partial UTF-8 is returned as it is."""
        ...

    def open(self, layers: LayerRange | None = None) -> Session:
        """A new empty session over all layers or a stage of them."""
        ...

    def fork(self, session: Session) -> Session:
        """An independent copy: decoding one never changes the other, bitwise."""
        ...

    def truncate(self, session: Session, position_count: int) -> None:
        """Keep the first position_count tokens. Growing is refused."""
        ...

    def close(self, session: Session) -> None:
        """Free what the session holds. A closed session is refused afterwards."""
        ...

    def prefill(
        self,
        session: Session,
        ids: Sequence[int],
        *,
        chunk: int = 0,
        rows: Literal["last", "all"] = "all",
        cancelled: Callable[[], bool] = never,
    ) -> F32:
        """Append ids; logits of the last or of every appended position. chunk 0: the engine's own choice.

        cancelled is asked between chunks; True raises `zg/backend/cancelled` and the session holds what it held.
        """
        ...

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        """One token for each session in one batch; row i are the logits after ids[i]. Sessions may have any lengths."""
        ...

    def forward_range(self, session: Session, x: Sequence[int] | F32) -> F32:
        """Run the stage on ids (first == 0) or hidden rows; returns hidden rows, or logits when it is the last."""
        ...

    def export_cache(self, session: Session) -> CacheArrays:
        """K and V as the engine holds them, without loss, in the first of `cache_forms`."""
        ...

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> Session:
        """A new session that continues after the cache. cache.form is one of `cache_forms`. Shapes were checked."""
        ...

    def metrics(self) -> Mapping[str, int]:
        """Integer counters since load: `tokens_prefilled`, `tokens_decoded`, `sessions_open`, `cache_imports` …"""
        ...

    def map_error(self, error: BaseException) -> tuple[str, str]:
        """(error id, one line) for an exception of the engine."""
        ...

    def shutdown(self) -> None:
        """Free the engine. Idempotent."""
        ...


class BackendFactory(Protocol):
    """What an entry point in group `zeitgeist.backends` names. `VARIANTS` may stand beside it in the module."""

    def __call__(self, options: Mapping[str, str]) -> Backend:
        """Import the engine and make the adapter; unknown options are refused by name."""
        ...
