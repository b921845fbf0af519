"""The arithmetic of the reference backend: a decoder-only transformer in NumPy float32, one short method for each idea.

Law: every row (token) is computed alone, by the same calls with the same shapes, whatever stands beside it: matrix
times vector for each row, attention for each query over exactly the keys it sees. Hence batch, chunk and
prefill-against-steps give equal bits. Subclasses change one idea each (`reference_variants.py`) and state what that
costs in `batch_invariant` and `chunk_invariant`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig

__all__ = ["LayerCache", "ReferenceModel", "Span"]

F32 = NDArray[Any]
"""float32. NumPy's stubs widen float32 arithmetic to float64, hence no element type here."""
ROWS_FIRST = 64
"""Positions reserved at first append; doubled when full, so that appending stays linear."""


class LayerCache:
    """Keys (rotated, half-split) and values of one layer of one sequence: `[kv_head, capacity, head_dim]` in dtype."""

    def __init__(self, kv_head_count: int, head_dim: int, dtype: Any = np.float32) -> None:
        self.keys = np.zeros((kv_head_count, 0, head_dim), dtype)
        self.values = np.zeros((kv_head_count, 0, head_dim), dtype)
        self.count = 0

    def append(self, k: NDArray[Any], v: NDArray[Any]) -> None:
        """Add rows `[n, kv_head, head_dim]`, rounded to the cache's dtype."""
        stop = self.count + k.shape[0]
        if stop > self.keys.shape[1]:
            self.keys, self.values = self.grown(self.keys, stop), self.grown(self.values, stop)
        self.keys[:, self.count : stop] = k.swapaxes(0, 1)
        self.values[:, self.count : stop] = v.swapaxes(0, 1)
        self.count = stop

    def grown(self, rows: NDArray[Any], at_least: int) -> NDArray[Any]:
        larger = np.zeros((rows.shape[0], max(ROWS_FIRST, 2 * rows.shape[1], at_least), rows.shape[2]), rows.dtype)
        larger[:, : self.count] = rows[:, : self.count]
        return larger

    def copy(self) -> "LayerCache":
        """An independent cache with the same valid rows."""
        twin = LayerCache(self.keys.shape[0], self.keys.shape[2], self.keys.dtype)
        twin.append(*self.rows())
        return twin

    def rows(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """K and V, `[position, kv_head, head_dim]`, valid rows only; views."""
        return self.keys[:, : self.count].swapaxes(0, 1), self.values[:, : self.count].swapaxes(0, 1)


@dataclass(frozen=True)
class Span:
    """Rows of one sequence in a batch: its cache by layer of the stage, the position of the first row, the count."""

    cache: Sequence[LayerCache]
    position: int
    count: int


class ReferenceModel:
    """Weights by canonical name (`zeitgeist.models.bundle`), float32. Methods take rows: x is `[rows, hidden_size]`."""

    batch_invariant: ClassVar[bool] = True
    chunk_invariant: ClassVar[bool] = True

    def __init__(
        self, config: ModelConfig, tensor: Callable[[str], F32], names: Sequence[str], rope_factors: F32
    ) -> None:
        self.config = config
        self.weights = {name: np.ascontiguousarray(tensor(name), dtype=np.float32) for name in names}
        self.eps = np.float32(config.norm_eps)
        self.inverse_frequencies = self.frequencies(float(np.float32(config.rope.theta)), rope_factors)
        self.groups = self.query_groups()

    def weight(self, layer: int, name: str) -> F32 | None:
        """A layer's tensor, or None where the family has none."""
        return self.weights.get(f"layers.{layer}.{name}")

    # Position and heads

    def frequencies(self, theta: float, factors: F32) -> NDArray[np.float64]:
        """Radians per position of each rotary pair, float64 `[head_dim / 2]`."""
        pair = np.arange(0, self.config.head_dim, 2, dtype=np.float64)
        return theta ** (-pair / self.config.head_dim) / factors.astype(np.float64)

    def angles(self, positions: NDArray[np.int64]) -> tuple[F32, F32]:
        """Cosine and sine, `[rows, 1, head_dim / 2]`; the angle is formed in float64, or far positions lose bits."""
        angle = positions[:, None, None] * self.inverse_frequencies
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def rotate(self, x: F32, cosine: F32, sine: F32) -> F32:
        """Rotate the pairs (i, i + head_dim / 2) of x `[rows, head, head_dim]`."""
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=-1)

    def kv_head_of(self, query_head: int) -> int:
        """The KV head that a query head reads."""
        return query_head // (self.config.head_count // self.config.kv_head_count)

    def query_groups(self) -> NDArray[np.intp]:
        """Query heads by KV head, `[kv_head, group]`."""
        heads = range(self.config.head_count)
        return np.array([[h for h in heads if self.kv_head_of(h) == kv] for kv in range(self.config.kv_head_count)])

    def visible(self, position: int) -> slice:
        """The cached positions that the query at position sees."""
        return slice(0, position + 1)

    def scale(self) -> np.float32:
        """Factor of the attention scores."""
        return np.float32(self.config.head_dim**-0.5)

    # Arithmetic

    def norm(self, x: F32, weight: F32) -> F32:
        """Root-mean-square norm over the last axis."""
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        return x / np.sqrt(mean + self.eps) * weight

    def matmul(self, x: F32, weight: F32) -> F32:
        """x `[rows, in]` times weight `[out, in]` transposed; one matrix-vector product for each row."""
        return np.matmul(weight, x[:, :, None])[:, :, 0]

    def silu(self, x: F32) -> F32:
        """x times the logistic function of x; written with tanh, which does not overflow."""
        return x * (np.float32(0.5) * (np.float32(1) + np.tanh(np.float32(0.5) * x)))

    def attend(self, query: F32, keys: F32, values: F32) -> F32:
        """One query row `[kv_head, group, head_dim]` over keys and values `[kv_head, seen, head_dim]`, like query."""
        scores = np.matmul(query, keys.swapaxes(1, 2)) * self.scale()
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.matmul(weight, values) / weight.sum(axis=-1, keepdims=True)

    # Layers

    def append(self, cache: LayerCache, k: F32, v: F32) -> None:
        """Write the new rows `[n, kv_head, head_dim]` of one sequence into its cache."""
        cache.append(k, v)

    def project(self, layer: int, name: str, x: F32, heads: int) -> F32:
        """Query, key or value rows `[rows, head, head_dim]` with bias and head norm where the family has them."""
        rows = self.matmul(x, self.weights[f"layers.{layer}.{name}"])
        bias, head_norm = self.weight(layer, f"{name}_bias"), self.weight(layer, f"{name}_norm")
        if bias is not None:
            rows = rows + bias
        rows = rows.reshape(x.shape[0], heads, self.config.head_dim)
        return rows if head_norm is None else self.norm(rows, head_norm)

    def attention(self, layer: int, index: int, x: F32, spans: Sequence[Span]) -> F32:
        """Attention of a layer on normed rows. index: the layer's place in the stage's caches."""
        config = self.config
        cosine, sine = self.angles(np.concatenate([np.arange(s.position, s.position + s.count) for s in spans]))
        query = self.rotate(self.project(layer, "q", x, config.head_count), cosine, sine)
        key = self.rotate(self.project(layer, "k", x, config.kv_head_count), cosine, sine)
        value = self.project(layer, "v", x, config.kv_head_count)
        mixed = np.empty_like(query)
        row = 0
        for span in spans:
            cache = span.cache[index]
            self.append(cache, key[row : row + span.count], value[row : row + span.count])
            for position in range(span.position, span.position + span.count):
                mixed[row][self.groups] = self.attend_row(query[row], cache, position)
                row += 1
        return self.matmul(mixed.reshape(x.shape[0], -1), self.weights[f"layers.{layer}.o"])

    def attend_row(self, query: F32, cache: LayerCache, position: int) -> F32:
        """Attention of one query row `[head, head_dim]` over what it sees; `[kv_head, group, head_dim]`."""
        seen = self.visible(position)
        keys = cache.keys[:, : cache.count][:, seen].astype(np.float32, copy=False)
        values = cache.values[:, : cache.count][:, seen].astype(np.float32, copy=False)
        return self.attend(query[self.groups], keys, values)

    def feed_forward(self, layer: int, x: F32) -> F32:
        """Gated feed-forward of a layer on normed rows."""
        gate, up, down = (self.weights[f"layers.{layer}.{name}"] for name in ("gate", "up", "down"))
        return self.matmul(self.silu(self.matmul(x, gate)) * self.matmul(x, up), down)

    def run_layer(self, layer: int, index: int, x: F32, spans: Sequence[Span]) -> F32:
        """One layer on the residual stream."""
        x = x + self.attention(layer, index, self.norm(x, self.weights[f"layers.{layer}.attn_norm"]), spans)
        return x + self.feed_forward(layer, self.norm(x, self.weights[f"layers.{layer}.ffn_norm"]))

    def embed(self, ids: Sequence[int]) -> F32:
        """Embedding rows of ids."""
        return self.weights["embed"][np.asarray(ids, dtype=np.int64)]

    def head(self, x: F32) -> F32:
        """Logits `[rows, vocab]` of the residual stream after the last layer."""
        return self.matmul(self.norm(x, self.weights["norm"]), self.weights["head"])

    def run(self, x: F32, spans: Sequence[Span], first: int, stop: int) -> F32:
        """Layers `[first, stop)`; the caches of the spans grow by the rows."""
        for index, layer in enumerate(range(first, stop)):
            x = self.run_layer(layer, index, x, spans)
        return x
