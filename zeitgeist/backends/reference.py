"""The NumPy float32 reference backend: needs nothing but numpy, and is bitwise batch- and chunk-invariant.

Clause I2. Meant to be read and compared with, not to be fast. Options: `arithmetic` (a name in
`reference_variants.ARITHMETICS`), `chunk` (rows of a prefill chunk when the caller names none), `cache` (`f32` or
`f16`: the element type of the KV cache).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import blake3
import numpy as np
from numpy.typing import NDArray

from zeitgeist.backends.base import CacheArrays, LayerRange, Serve, Session, Variant, never
from zeitgeist.backends.reference_model import LayerCache, ReferenceModel, Span
from zeitgeist.backends.reference_variants import ARITHMETICS
from zeitgeist.core.descriptors.backend import CAPABILITIES, BackendDescriptor, Library
from zeitgeist.core.descriptors.model import FAMILIES, ModelConfig
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, ElementForm
from zeitgeist.core.ids import Digest
from zeitgeist.models.bundle import ModelBundle

__all__ = ["F16_HALF", "VARIANTS", "ReferenceBackend", "ReferenceSession", "create"]

F32 = NDArray[np.float32]
CHUNK = 64
"""Rows of a prefill chunk: a cancel waits for at most one chunk, 0.1 s on the tiny model."""
F16_HALF = CacheForm(k=ElementForm(dtype="f16"), v=ElementForm(dtype="f16"), pairing="half")
FORMS: dict[str, tuple[CacheForm, Any]] = {"f32": (F32_HALF, np.float32), "f16": (F16_HALF, np.float16)}
COUNTERS = ("cache_exports", "cache_imports", "tokens_decoded", "tokens_prefilled")

VARIANTS: tuple[Variant, ...] = (
    Variant("blocked", "matrix-matrix products by BLAS; not bitwise invariant", {"arithmetic": "blocked"}),
    Variant("chunk-16", "prefill in chunks of 16 rows", {"chunk": "16"}),
    Variant("chunk-256", "prefill in chunks of 256 rows", {"chunk": "256"}),
    Variant("float64-accumulate", "products summed in float64", {"arithmetic": "float64-accumulate"}),
    Variant("kv-f16", "KV cache held in float16", {"cache": "f16"}),
    Variant("online-softmax-16", "attention over blocks of 16 keys", {"arithmetic": "online-softmax-16"}),
    Variant("online-softmax-64", "attention over blocks of 64 keys", {"arithmetic": "online-softmax-64"}),
    Variant("pairwise", "products summed pairwise", {"arithmetic": "pairwise"}),
    Variant("split-k", "products summed in four parts", {"arithmetic": "split-k"}),
)


@dataclass
class ReferenceSession(Session):
    """A sequence: one `LayerCache` for each layer of the stage; `open` is False once closed."""

    cache: list[LayerCache] = field(default_factory=list)
    open: bool = True


def bad(name: str, got: object, wanted: object) -> LocalProtocolError:
    """The refusal of an argument."""
    return LocalProtocolError("zg/backend/bad-argument", f"got {got}, wanted {wanted}", name)


@functools.cache
def numpy_library() -> Library:
    """NumPy with the digest of its compiled core and of the BLAS that its wheel carries."""
    package = Path(np.__file__).parent
    files = [*package.glob("_core/_multiarray_umath*.so"), *package.parent.glob("numpy.libs/*openblas*")]
    hasher = blake3.blake3()
    for path in sorted(files):
        hasher.update(path.read_bytes())
    return Library(name="numpy", version=np.__version__, digest=Digest(f"blake3:{hasher.hexdigest()}"))


class ReferenceBackend:
    """One model. model_class: the arithmetic; chunk: rows of a prefill chunk; cache: element type of K and V."""

    def __init__(
        self,
        model_class: type[ReferenceModel] = ReferenceModel,
        *,
        variant: str = "",
        chunk: int = CHUNK,
        cache: Literal["f32", "f16"] = "f32",
    ) -> None:
        self.model_class = model_class
        self.variant = variant
        self.chunk = chunk
        self.band: Literal["x32", "x16"] = "x32" if cache == "f32" else "x16"
        self.form, self.cache_dtype = FORMS[cache]
        self.bundle: ModelBundle | None = None
        self.loaded: ReferenceModel | None = None
        self.sessions_open = 0
        self.counters = dict.fromkeys(COUNTERS, 0)

    # What it is

    def describe(self) -> BackendDescriptor:
        """Claims of this variant. `context_max` is 0 before load."""
        return BackendDescriptor(
            name="reference",
            variant=self.variant,
            version="1",
            libraries=(numpy_library(),),
            classes=("local_serving", "cache_capable", "tensor_export", "distributed_execution"),
            capabilities=CAPABILITIES,
            families=FAMILIES,
            context_max=self.loaded.config.context_length if self.loaded else 0,
            weight_dtypes=("f32", "f16", "bf16"),
            quantization=("ggml_q4_0", "ggml_q4_1", "ggml_q8_0", "mlx_affine"),
            attention=("causal",),
            cache_forms=(self.form,),
            tensor_formats=("f32",),
            parallelism=("layers",),
            sampler="canonical",
            prompt="ids",
            streaming=True,
            batch_max=64,
            band=self.band,
            activations="",
            batch_invariant=self.model_class.batch_invariant,
            chunk_invariant=self.model_class.chunk_invariant,
            run_to_run=True,
            isolation="process",
        )

    def can_serve(self, config: ModelConfig, weights: str) -> Serve:
        """Any weights the bundle can dequantise; the families we know, with an even head_dim and whole query groups."""
        reasons: list[str] = []
        if config.family not in FAMILIES:
            reasons.append(f"family: got {config.family}, wanted one of {', '.join(FAMILIES)}")
        if config.head_dim % 2:
            reasons.append(f"head_dim: got {config.head_dim}, wanted an even number")
        if config.kv_head_count < 1 or config.head_count % config.kv_head_count:
            reasons.append(f"kv_head_count: got {config.kv_head_count}, wanted a divisor of {config.head_count}")
        return Serve(tuple(reasons))

    def load(self, bundle: ModelBundle) -> None:
        """Take the canonical tensors as float32."""
        serve = self.can_serve(bundle.config, "")
        if not serve.ok:
            raise LocalProtocolError("zg/backend/not-serving", "; ".join(serve.reasons), "model")
        self.loaded = self.model_class(bundle.config, bundle.tensor, bundle.names(), bundle.rope_factors())
        self.bundle = bundle

    @property
    def model(self) -> ReferenceModel:
        """The loaded model, or `zg/backend/no-model`."""
        if self.loaded is None:
            raise LocalProtocolError("zg/backend/no-model", "load was not called", "model")
        return self.loaded

    def tokenize(self, text: str) -> list[int]:
        """Ids by the bundle's byte-level BPE."""
        return self.tokenizer().encode(text)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids by the bundle's vocabulary."""
        return self.tokenizer().decode(self.checked_ids(ids))

    def tokenizer(self) -> Any:
        if self.bundle is None:
            raise LocalProtocolError("zg/backend/no-model", "load was not called", "model")
        return self.bundle.tokenizer

    # Sessions

    def open(self, layers: LayerRange | None = None) -> ReferenceSession:
        """A new empty session; the stage must lie inside the model."""
        config = self.model.config
        layers = layers or LayerRange(0, config.layer_count)
        if not 0 <= layers.first < layers.stop <= config.layer_count:
            raise bad("layers", f"[{layers.first}, {layers.stop})", f"a range inside [0, {config.layer_count})")
        cache = [
            LayerCache(config.kv_head_count, config.head_dim, self.cache_dtype)
            for _ in range(layers.first, layers.stop)
        ]
        self.sessions_open += 1
        return ReferenceSession(layers, 0, cache)

    def held(self, session: Session) -> ReferenceSession:
        """The session, if it is ours and open."""
        if not isinstance(session, ReferenceSession) or not session.open:
            raise LocalProtocolError("zg/backend/no-such-session", "it was closed, or is of another backend", "session")
        return session

    def fork(self, session: Session) -> ReferenceSession:
        """A session with copies of the caches."""
        source = self.held(session)
        self.sessions_open += 1
        return ReferenceSession(source.layers, source.position_count, [layer.copy() for layer in source.cache])

    def truncate(self, session: Session, position_count: int) -> None:
        """Forget what follows the first position_count tokens."""
        held = self.held(session)
        if not 0 <= position_count <= held.position_count:
            raise bad("position_count", position_count, f"0 … {held.position_count}")
        held.position_count = position_count
        for layer in held.cache:
            layer.count = position_count

    def close(self, session: Session) -> None:
        """Free the caches."""
        held = self.held(session)
        held.open, held.cache = False, []
        self.sessions_open -= 1

    # Execution

    def prefill(
        self,
        session: Session,
        ids: Sequence[int],
        *,
        chunk: int = 0,
        rows: Literal["last", "all"] = "all",
        cancelled: Callable[[], bool] = never,
    ) -> F32:
        """Append ids in chunks; see `Backend.prefill`."""
        held = self.whole(session)
        ids = self.checked_ids(ids)
        if chunk < 0:
            raise bad("chunk", chunk, "0 or more")
        self.require_room(held, len(ids))
        begin, step = held.position_count, chunk or self.chunk
        logits: list[F32] = []
        for start in range(0, len(ids), step):
            if cancelled():
                self.truncate(held, begin)
                raise ZeitgeistError("zg/backend/cancelled", f"after {start} of {len(ids)} tokens", "prefill")
            hidden = self.advance([held], self.model.embed(ids[start : start + step]))
            if rows == "all":
                logits.append(self.model.head(hidden))
            elif start + step >= len(ids):
                logits.append(self.model.head(hidden[-1:]))
        self.counters["tokens_prefilled"] += len(ids)
        return np.concatenate(logits)

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        """One token for each of several different sessions."""
        held = [self.whole(session) for session in sessions]
        ids = self.checked_ids(ids)
        if len(held) != len(ids) or len({id(session) for session in held}) != len(held):
            raise bad("sessions", f"{len(held)} sessions for {len(ids)} ids", "as many different sessions as ids")
        logits = self.model.head(self.advance(held, self.model.embed(ids)))
        self.counters["tokens_decoded"] += len(ids)
        return logits

    def forward_range(self, session: Session, x: Sequence[int] | F32) -> F32:
        """Ids into the first stage, hidden rows into others; hidden rows out, or logits out of the last."""
        held = self.held(session)
        hidden = self.model.embed(self.checked_ids(x)) if held.layers.first == 0 else self.checked_hidden(x)
        hidden = self.advance([held], hidden)
        return self.model.head(hidden) if held.layers.stop == self.model.config.layer_count else hidden

    def advance(self, sessions: Sequence[ReferenceSession], x: F32) -> F32:
        """Run one stage over x: all rows of one session, or one row of each of several. Caches and counts grow."""
        count = len(x) if len(sessions) == 1 else 1
        for session in sessions:
            self.require_room(session, count)
        spans = [Span(session.cache, session.position_count, count) for session in sessions]
        try:
            x = self.model.run(x, spans, sessions[0].layers.first, sessions[0].layers.stop)
        except BaseException:
            for session in sessions:
                self.truncate(session, session.position_count)
            raise
        for session in sessions:
            session.position_count += count
        return x

    def require_room(self, session: ReferenceSession, count: int) -> None:
        """Refuse more tokens than the model's context (`zg/backend/context-full`)."""
        most = self.model.config.context_length
        if session.position_count + count > most:
            detail = f"{session.position_count} tokens held and {count} to come, wanted at most {most}"
            raise LocalProtocolError("zg/backend/context-full", detail, "session")

    def whole(self, session: Session) -> ReferenceSession:
        """The session, if it runs all layers."""
        held = self.held(session)
        if held.layers != LayerRange(0, self.model.config.layer_count):
            raise bad("session", f"a stage [{held.layers.first}, {held.layers.stop})", "one over all layers")
        return held

    def checked_ids(self, ids: Any) -> list[int]:
        vocab_size = self.model.config.vocab_size
        values = [int(i) for i in ids]
        wrong = [i for i in values if not 0 <= i < vocab_size]
        if wrong or not values:
            raise bad("ids", wrong[:4] or "none", f"at least one id in [0, {vocab_size})")
        return values

    def checked_hidden(self, x: Any) -> F32:
        rows = np.asarray(x, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.model.config.hidden_size or not len(rows):
            raise bad("x", f"shape {rows.shape}", f"[rows, {self.model.config.hidden_size}]")
        return rows

    # Cache

    def export_cache(self, session: Session) -> CacheArrays:
        """Copies of K and V in the form of this variant."""
        held = self.held(session)
        pairs = [layer.rows() for layer in held.cache]
        self.counters["cache_exports"] += 1
        return CacheArrays(
            self.form,
            [np.ascontiguousarray(k).copy() for k, _ in pairs],
            [np.ascontiguousarray(v).copy() for _, v in pairs],
            held.position_count,
        )

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        """A session that holds copies of the cache's rows."""
        if cache.form != self.form:
            raise bad("form", cache.form, self.form)
        layers = layers or LayerRange(0, self.model.config.layer_count)
        if not len(cache.k) == len(cache.v) == layers.stop - layers.first:
            raise bad("layers", f"{len(cache.k)} K and {len(cache.v)} V layers", layers.stop - layers.first)
        if cache.position_count > self.model.config.context_length:
            raise bad("position_count", cache.position_count, f"at most {self.model.config.context_length}")
        session = self.open(layers)
        for layer, k, v in zip(session.cache, cache.k, cache.v, strict=True):
            layer.append(k[: cache.position_count], v[: cache.position_count])
        session.position_count = cache.position_count
        self.counters["cache_imports"] += 1
        return session

    # The rest

    def metrics(self) -> Mapping[str, int]:
        """Counters since load."""
        return {**self.counters, "sessions_open": self.sessions_open}

    def map_error(self, error: BaseException) -> tuple[str, str]:
        """Ours keep their id; NumPy's become `zg/backend/failed`."""
        if isinstance(error, ZeitgeistError):
            return error.id, error.detail
        return "zg/backend/failed", f"{type(error).__name__}: {error}".splitlines()[0]

    def shutdown(self) -> None:
        """Drop the weights."""
        self.loaded = self.bundle = None


def create(options: Mapping[str, str]) -> ReferenceBackend:
    """The backend with options `arithmetic`, `chunk`, `cache`; others are refused by name."""
    unknown = sorted(set(options) - {"arithmetic", "cache", "chunk"})
    if unknown:
        raise bad(unknown[0], "an unknown option", "arithmetic, cache or chunk")
    arithmetic, cache = options.get("arithmetic", "rowwise"), options.get("cache", "f32")
    chunk = options.get("chunk", "")
    if arithmetic not in ARITHMETICS:
        raise bad("arithmetic", arithmetic, ", ".join(sorted(ARITHMETICS)))
    if cache != "f32" and cache != "f16":
        raise bad("cache", cache, "f32 or f16")
    if chunk and not (chunk.isdecimal() and int(chunk) > 0):
        raise bad("chunk", chunk, "a positive integer")
    variant = next((v.name for v in VARIANTS if v.options == dict(options)), "custom" if options else "")
    return ReferenceBackend(ARITHMETICS[arithmetic], variant=variant, chunk=int(chunk or CHUNK), cache=cache)
