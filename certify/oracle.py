"""The judge: a decoder-only transformer in NumPy float64 that reads models by itself (DESIGN §5).

Law: shares no code with `zeitgeist.models` or any backend, so that no engine, our reference included, is its own judge.
It is itself judged: by transformers in float64 on every geometry, and by golden logits. Options model what a *lossy*
engine does on purpose (a rounded cache, rounded activations), so that it is graded against its own contract.

Caches: keys after rotation in half-split pairs and values, float64 `[position, kv_head, head_dim]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from certify.oracle_config import F64, I64, OracleConfig
from certify.oracle_rounding import BLOCK, hadamard, q8_1_sums, rounding
from certify.oracle_weights import Matrix, read_model
from zeitgeist.core.errors import LocalProtocolError

__all__ = ["Oracle", "OracleCache", "OracleOptions"]

ANGLES = ("", "direct", "iterated")
QUERY_ROWS = 128
"""Queries of one attention step: 128 × 4,096 positions × 8 heads in float64 are 34 MB."""


@dataclass(frozen=True)
class OracleOptions:
    """What a lossy engine does. "" leaves the numbers alone; else a name in `oracle_rounding.ROUNDINGS`.

    kv_round: K and V when they are written, and therefore whenever they are read;
    kv_hadamard: block of the rotation in which they are rounded, 0 for none; kv_interleaved: keys are rounded in
    interleaved order (llama.cpp on family llama), which matters for blocks shorter than head_dim;
    query_round: queries before the scores (ggml rounds them to the partner type of the K cache: f16, or ggml_q8_0);
    activations: rows before a product with a matrix of the matching storage: `ggml_q8_0` before any ggml block type,
    `f16` before f16, `bf16` before bf16, as ggml does. A Q4_1 matrix takes Q8_1: Q8_0 and the f16 sum of each block;
    angles: rotary angles in float32, `direct` (position × inverse frequency, as torch and MLX) or `iterated`
    (multiplied on from pair to pair, as ggml_rope_cache_init): an honest float32 engine's loss, growing with position.
    """

    kv_round: str = ""
    kv_hadamard: int = 0
    kv_interleaved: bool = False
    query_round: str = ""
    activations: str = ""
    angles: str = ""


@dataclass
class OracleCache:
    """K and V by layer of a stage, in order."""

    k: list[F64] = field(default_factory=list[F64])
    v: list[F64] = field(default_factory=list[F64])

    @property
    def position_count(self) -> int:
        """Tokens held."""
        return len(self.k[0]) if self.k else 0

    def copy(self) -> "OracleCache":
        """Independent lists; the arrays are never written in place, so they are shared."""
        return OracleCache(list(self.k), list(self.v))

    def truncated(self, position_count: int) -> "OracleCache":
        """The first position_count tokens."""
        return OracleCache([k[:position_count] for k in self.k], [v[:position_count] for v in self.v])


def bad(name: str, got: object, wanted: object) -> LocalProtocolError:
    return LocalProtocolError("zg/oracle/bad-request", f"got {got}, wanted {wanted}", name)


class Oracle:
    """One model. `logits` is the whole answer; `run` takes stages, `continue_from` foreign caches."""

    def __init__(self, config: OracleConfig, weights: dict[str, Matrix], options: OracleOptions | None = None) -> None:
        self.config = config
        self.weights = weights
        self.options = options or OracleOptions()
        for name in ("kv_round", "query_round", "activations"):
            if value := getattr(self.options, name):
                rounding(value, name)
        if self.options.angles not in ANGLES:
            raise bad("angles", self.options.angles, ", ".join(map(repr, ANGLES)))

    @classmethod
    def open(cls, path: Path | str, options: OracleOptions | None = None) -> "Oracle":
        """Read a Hugging Face directory, an MLX directory or a GGUF file.

        Errors: `zg/oracle/unknown` for what it does not know, `zg/oracle/bad-file` for what is damaged.
        """
        return cls(*read_model(Path(path)), options)

    def with_options(self, options: OracleOptions) -> "Oracle":
        """The same weights under other options."""
        return Oracle(self.config, self.weights, options)

    def with_theta(self, theta: float) -> "Oracle":
        """The same weights with another rotary base, the scaling kept: to diagnose an engine that ignores the base."""
        config = self.config
        pair = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
        changed = config.frequencies * config.rope_theta**pair / theta**pair
        return Oracle(replace(config, rope_theta=theta, frequencies=changed), self.weights, self.options)

    # Entry points

    def logits(self, ids: Sequence[int]) -> F64:
        """Logits `[len(ids), vocab]` of every position of a fresh sequence."""
        return self.run(ids)

    def prefill(self, ids: Sequence[int]) -> tuple[F64, OracleCache]:
        """Logits of every position, and the cache of a fresh sequence."""
        cache = OracleCache()
        return self.run(ids, cache), cache

    def continue_from(self, cache: OracleCache, ids: Sequence[int]) -> F64:
        """Logits of ids after a whole-model cache, which is left as it is."""
        return self.run(ids, cache.copy())

    def run(
        self,
        ids: Sequence[int] | None = None,
        cache: OracleCache | None = None,
        first: int = 0,
        stop: int | None = None,
        hidden: F64 | None = None,
    ) -> F64:
        """Layers `[first, stop)` on ids (first = 0) or hidden rows; hidden rows, or logits when stop is the last layer.

        cache: that of the stage (stop - first layers, or empty); it grows by the rows.
        """
        stop = self.config.layer_count if stop is None else stop
        if not 0 <= first < stop <= self.config.layer_count:
            raise bad("layers", f"[{first}, {stop})", f"a range inside [0, {self.config.layer_count})")
        x = self.entry(ids, hidden, first)
        cache = OracleCache() if cache is None else cache
        if not cache.k:
            empty = np.zeros((0, self.config.kv_head_count, self.config.head_dim))
            cache.k, cache.v = [empty] * (stop - first), [empty] * (stop - first)
        self.check_cache(cache, stop - first)
        start = cache.position_count
        for index, layer in enumerate(range(first, stop)):
            x = x + self.attention(layer, index, self.norm(x, f"{layer}.attn_norm"), cache, start)
            x = x + self.feed_forward(layer, self.norm(x, f"{layer}.ffn_norm"))
        return self.product(self.norm(x, "norm"), "head") if stop == self.config.layer_count else x

    def entry(self, ids: Sequence[int] | None, hidden: F64 | None, first: int) -> F64:
        """The rows that enter a stage, checked."""
        if (ids is None) == (hidden is None) or (ids is None) == (first == 0):
            raise bad("ids, hidden", "the other one", "ids for the first stage, hidden rows for a later one")
        if hidden is not None:
            if hidden.ndim != 2 or hidden.shape[1] != self.config.hidden_size:
                raise bad("hidden", hidden.shape, f"[rows, {self.config.hidden_size}]")
            return hidden.astype(np.float64)
        chosen = np.asarray(ids, dtype=np.int64)
        if chosen.ndim != 1 or not chosen.size or chosen.min() < 0 or chosen.max() >= self.config.vocab_size:
            raise bad("ids", ids, f"at least one id in [0, {self.config.vocab_size})")
        return self.weights["embed"].values[chosen]

    def check_cache(self, cache: OracleCache, layer_count: int) -> None:
        """Refuse a cache of another geometry."""
        shape = (cache.position_count, self.config.kv_head_count, self.config.head_dim)
        if len(cache.k) != layer_count or len(cache.v) != layer_count:
            raise bad("cache", f"{len(cache.k)} K and {len(cache.v)} V layers", layer_count)
        if wrong := {part.shape for part in (*cache.k, *cache.v)} - {shape}:
            raise bad("cache", sorted(wrong), shape)

    # Arithmetic

    def norm(self, x: F64, name: str) -> F64:
        """Root-mean-square norm over the last axis."""
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.config.norm_eps) * self.weights[name].values

    def product(self, x: F64, name: str) -> F64:
        """x times a matrix transposed, rounding x first where the options and the matrix's storage say so."""
        matrix = self.weights[name]
        kind = self.options.activations
        if kind and (matrix.stored == kind or (kind == "ggml_q8_0" and matrix.stored.startswith("ggml_"))):
            exact, x = x, rounding(kind, "activations")(x)
            if matrix.minima is not None:
                blocks = x.reshape(*x.shape[:-1], -1, BLOCK).sum(axis=-1)
                return x @ matrix.values.T + (q8_1_sums(exact) - blocks) @ matrix.minima.T
        return x @ matrix.values.T

    def heads(self, layer: int, name: str, x: F64) -> F64:
        """Query, key or value rows `[rows, head, head_dim]`, before rotation."""
        rows = self.product(x, f"{layer}.{name}")
        if bias := self.weights.get(f"{layer}.{name}_bias"):
            rows = rows + bias.values
        rows = rows.reshape(len(x), -1, self.config.head_dim)
        return self.norm(rows, f"{layer}.{name}_norm") if f"{layer}.{name}_norm" in self.weights else rows

    def rotated(self, x: F64, start: int) -> F64:
        """x `[rows, head, head_dim]` at positions start …: pair (i, i + d/2) as a complex number times e^(i·angle)."""
        half = self.config.head_dim // 2
        angle = self.angles(np.arange(start, start + len(x)))[:, None, :]
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def angles(self, positions: I64) -> F64:
        """Rotary angles `[position, head_dim / 2]`, exact or as the options say."""
        frequencies = self.config.frequencies
        if self.options.angles == "":
            return positions[:, None] * frequencies
        start = positions.astype(np.float32)[:, None]
        if self.options.angles == "direct":
            return (start * frequencies.astype(np.float32)).astype(np.float64)
        plain = self.config.rope_theta ** (-2.0 * np.arange(len(frequencies)) / self.config.head_dim)
        scale = np.float32(self.config.rope_theta ** (-2.0 / self.config.head_dim))
        columns = [start]
        for _ in frequencies[1:]:
            columns.append(columns[-1] * scale)
        divisors = (plain / frequencies).astype(np.float32)
        return (np.concatenate(columns, axis=1) / divisors).astype(np.float64)

    def rounded(self, rows: F64, kind: str, *, keys: bool) -> F64:
        """Rows `[n, head, head_dim]` as a lossy cache gives them back: rounded in the engine's order and rotation."""
        if not kind:
            return rows
        half, block, swap = self.config.head_dim // 2, self.options.kv_hadamard, keys and self.options.kv_interleaved
        if swap:
            rows = rows.reshape(*rows.shape[:-1], 2, half).swapaxes(-1, -2).reshape(rows.shape)
        rows = hadamard(rows, block) if block else rows
        rows = rounding(kind, "kv_round")(rows)
        rows = hadamard(rows, block) if block else rows
        return rows.reshape(*rows.shape[:-1], half, 2).swapaxes(-1, -2).reshape(rows.shape) if swap else rows

    def attention(self, layer: int, index: int, x: F64, cache: OracleCache, start: int) -> F64:
        """Causal attention of a layer on normed rows; cache grows. index: the layer's place in the cache."""
        query = self.rotated(self.heads(layer, "q", x), start)
        key = self.rounded(self.rotated(self.heads(layer, "k", x), start), self.options.kv_round, keys=True)
        value = self.rounded(self.heads(layer, "v", x), self.options.kv_round, keys=False)
        cache.k[index] = np.concatenate([cache.k[index], key])
        cache.v[index] = np.concatenate([cache.v[index], value])
        query = self.rounded(query, self.options.query_round, keys=True)
        mixed = [
            self.mix(query[row : row + QUERY_ROWS], cache.k[index], cache.v[index], start + row)
            for row in range(0, len(x), QUERY_ROWS)
        ]
        return self.product(np.concatenate(mixed).reshape(len(x), -1), f"{layer}.o")

    def mix(self, query: F64, key: F64, value: F64, start: int) -> F64:
        """Softmax-weighted values for query rows `[rows, head, head_dim]` at positions start …, like query."""
        rows, config = len(query), self.config
        key, value = key[: start + rows], value[: start + rows]
        grouped = query.reshape(rows, config.kv_head_count, -1, config.head_dim)
        by_head = grouped.transpose(1, 2, 0, 3).reshape(config.kv_head_count, -1, config.head_dim)
        scores = by_head @ key.transpose(1, 2, 0) / np.sqrt(config.head_dim)
        scores = scores.reshape(config.head_count, rows, -1)
        hidden = np.arange(start + rows) > np.arange(start, start + rows)[:, None]
        scores = np.where(hidden, -np.inf, scores)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        mixed = weight.reshape(config.kv_head_count, -1, start + rows) @ value.transpose(1, 0, 2)
        return mixed.reshape(config.head_count, rows, -1).transpose(1, 0, 2)

    def feed_forward(self, layer: int, x: F64) -> F64:
        """down(silu(gate x) · up x)."""
        gate = self.product(x, f"{layer}.gate")
        with np.errstate(over="ignore"):
            gate = gate / (1 + np.exp(-gate))
        return self.product(gate * self.product(x, f"{layer}.up"), f"{layer}.down")
