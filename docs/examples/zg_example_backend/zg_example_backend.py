"""An engine of its own for llama models: whole blocks through BLAS in float32, one masked attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.backends.base import CacheArrays, LayerRange, Serve, Session, never
from zeitgeist.backends.libraries import python_library
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.kv import F32_HALF
from zeitgeist.models.bundle import ModelBundle

__all__ = ["ExampleBackend", "create"]

F32 = NDArray[np.float32]
CLAIMS = (
    "tokenize",
    "prefill",
    "decode",
    "batched_decode",
    "logprobs",
    "truncate",
    "fork",
    "cache_export",
    "cache_import",
    "cancel",
    "metrics",
)


@dataclass
class ExampleSession(Session):
    """k, v: one array a layer, float32 [position, kv_head, head_dim], keys after rotation."""

    k: list[F32] = field(default_factory=list)
    v: list[F32] = field(default_factory=list)


class ExampleBackend:
    """Implements `zeitgeist.backends.base.Backend` by shape, not by inheritance; it claims no layer ranges."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("tokens_prefilled", "tokens_decoded", "sessions_open"), 0)
        self.context = 0

    def describe(self) -> BackendDescriptor:
        return BackendDescriptor(
            name="custom/example/blas",
            variant="",
            version="0.1.0",
            libraries=(python_library("numpy"),),  # what really computes, with the digest of its installation
            classes=("local_serving", "cache_capable"),
            capabilities=CLAIMS,
            families=("llama",),
            context_max=self.context,
            weight_dtypes=("f32", "f16", "bf16"),
            quantization=(),
            attention=("causal",),
            cache_forms=(F32_HALF,),
            tensor_formats=(),
            parallelism=(),
            sampler="canonical",
            prompt="ids",
            streaming=False,
            batch_max=16,
            band="x32",
            activations="",
            batch_invariant=True,
            chunk_invariant=False,
            run_to_run=True,
            isolation="none",
        )

    def can_serve(self, config: ModelConfig, weights: str) -> Serve:
        known = config.family == "llama" and weights in ("f32", "f16", "bf16")
        return Serve(() if known else (f"model: got {config.family} {weights}, wanted llama in f32, f16 or bf16",))

    def load(self, bundle: ModelBundle) -> None:
        self.config, self.tokenizer, self.context = bundle.config, bundle.tokenizer, bundle.config.context_length
        self.w = {name: bundle.tensor(name) for name in bundle.names()}
        pair = np.arange(0, self.config.head_dim, 2, dtype=np.float64) / self.config.head_dim
        self.frequency = float(self.config.rope.theta) ** -pair / bundle.rope_factors()

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        return self.tokenizer.decode(ids)

    def open(self, layers: LayerRange | None = None) -> ExampleSession:
        count, shape = self.config.layer_count, (0, self.config.kv_head_count, self.config.head_dim)
        empty = [np.zeros(shape, np.float32)] * count
        return self.counted(ExampleSession(LayerRange(0, count), 0, list(empty), list(empty)))

    def counted(self, session: ExampleSession) -> ExampleSession:
        self.counts["sessions_open"] += 1
        return session

    def fork(self, session: Any) -> ExampleSession:
        k, v = list(session.k), list(session.v)  # arrays never change, so a fork may share them
        return self.counted(ExampleSession(session.layers, session.position_count, k, v))

    def truncate(self, session: Any, position_count: int) -> None:
        session.position_count = position_count
        session.k, session.v = ([a[:position_count] for a in side] for side in (session.k, session.v))

    def close(self, session: Any) -> None:
        session.k, session.v = [], []
        self.counts["sessions_open"] -= 1

    def prefill(
        self,
        session: Any,
        ids: Sequence[int],
        *,
        chunk: int = 0,
        rows: str = "all",
        cancelled: Callable[[], bool] = never,
    ) -> F32:
        before, step, logits = session.position_count, chunk or 128, []
        for start in range(0, len(ids), step):
            if cancelled():
                self.truncate(session, before)
                raise LocalProtocolError("zg/backend/cancelled", f"after {start} of {len(ids)} tokens", "prefill")
            logits.append(self.advance(session, ids[start : start + step]))
        self.counts["tokens_prefilled"] += len(ids)
        return np.concatenate(logits) if rows == "all" else logits[-1][-1:]

    def decode(self, sessions: Sequence[Any], ids: Sequence[int]) -> F32:
        self.counts["tokens_decoded"] += len(ids)
        return np.concatenate([self.advance(session, [id]) for session, id in zip(sessions, ids, strict=True)])

    def advance(self, session: Any, ids: Sequence[int]) -> F32:
        x = self.w["embed"][np.asarray(ids)]
        for layer in range(self.config.layer_count):
            x = x + self.attention(session, layer, self.norm(x, f"layers.{layer}.attn_norm"))
            h = self.norm(x, f"layers.{layer}.ffn_norm")
            gate = h @ self.w[f"layers.{layer}.gate"].T
            x = (
                x
                + (gate / (1 + np.exp(-gate)) * (h @ self.w[f"layers.{layer}.up"].T)) @ self.w[f"layers.{layer}.down"].T
            )
        session.position_count += len(ids)
        return self.norm(x, "norm") @ self.w["head"].T

    def norm(self, x: F32, name: str) -> F32:
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(self.config.norm_eps)) * self.w[name]

    def rotated(self, x: F32, position: NDArray[np.int64]) -> F32:
        low, high = np.split(x, 2, -1)
        angle = position[:, None, None] * self.frequency
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)

    def attention(self, session: Any, layer: int, x: F32) -> F32:
        heads, kv_heads, width = self.config.head_count, self.config.kv_head_count, self.config.head_dim
        position = np.arange(session.position_count, session.position_count + len(x))
        q, k, v = ((x @ self.w[f"layers.{layer}.{name}"].T).reshape(len(x), -1, width) for name in "qkv")
        session.k[layer] = np.concatenate([session.k[layer], self.rotated(k, position)])
        session.v[layer] = np.concatenate([session.v[layer], v])
        query = self.rotated(q, position).reshape(len(x), kv_heads, heads // kv_heads, width)
        scores = np.einsum("qhgd,khd->hgqk", query, session.k[layer], optimize=True) * np.float32(width**-0.5)
        scores[..., np.arange(len(session.k[layer])) > position[:, None]] = -np.inf
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hgqk,khd->qhgd", weight / weight.sum(-1, keepdims=True), session.v[layer], optimize=True)
        return mixed.reshape(len(x), -1) @ self.w[f"layers.{layer}.o"].T

    def export_cache(self, session: Any) -> CacheArrays:
        return CacheArrays(
            F32_HALF, [k.copy() for k in session.k], [v.copy() for v in session.v], session.position_count
        )

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ExampleSession:
        whole = LayerRange(0, self.config.layer_count)
        k, v = [k.copy() for k in cache.k], [v.copy() for v in cache.v]
        return self.counted(ExampleSession(whole, cache.position_count, k, v))

    def metrics(self) -> Mapping[str, int]:
        return dict(self.counts)

    def map_error(self, error: BaseException) -> tuple[str, str]:
        return "zg/backend/failed", f"{type(error).__name__}: {error}"

    def shutdown(self) -> None:
        self.w = {}


def create(options: Mapping[str, str]) -> ExampleBackend:
    if options:
        raise LocalProtocolError("zg/backend/bad-argument", f"got {sorted(options)}, wanted no option", "options")
    return ExampleBackend()
