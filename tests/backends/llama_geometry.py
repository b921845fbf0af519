"""Tiny random models as GGUF files, and their float64 forward pass, for the tests of the llama.cpp adapter.

Written apart from the product on purpose: the expectation must not come from the code under test.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from zeitgeist.core.descriptors.model import ModelConfig, RopeConfig
from zeitgeist.core.ids import Real

BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = [chr(b) for b in BYTES] + [chr(256 + i) for i in range(256 - len(BYTES))]
TOKENS = [*ALPHABET, "th", "the", "<|bos|>", "<|eos|>"]


@dataclass
class Geometry:
    """One model: its sizes and its weights, half-split rows, float64 of the values that the file holds."""

    family: str = "llama"
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 96
    theta: float = 10000.0
    divisors: np.ndarray | None = None
    linear: float = 0.0
    encoding: str = "F32"
    tied: bool = False
    seed: int = 5
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def config(self) -> ModelConfig:
        scaling = "factors" if self.divisors is not None else "linear" if self.linear else "none"
        return ModelConfig(
            family=self.family,
            hidden_size=self.hidden,
            layer_count=self.layers,
            head_count=self.heads,
            kv_head_count=self.kv_heads,
            head_dim=self.head_dim,
            ffn_size=self.ffn,
            vocab_size=len(TOKENS),
            norm_eps=Real("1e-05"),
            rope=RopeConfig(theta=Real(str(self.theta)), scaling=scaling),
            qkv_bias=self.family == "qwen2",
            qk_norm=self.family == "qwen3",
            context_length=512,
        )

    def bundle(self, path: Path) -> Any:
        """Write the file; what the adapter asks of a bundle."""
        write(self, path)
        tag = {"F32": "f32", "F16": "f16", "Q8_0": "ggml_q8_0", "Q4_0": "ggml_q4_0"}[self.encoding]
        descriptor = SimpleNamespace(weights=tag)
        return SimpleNamespace(path=path, form="gguf", config=self.config(), descriptor=lambda: descriptor)


def write(g: Geometry, path: Path) -> None:
    w = gguf.GGUFWriter(path, g.family)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_block_count(g.layers)
    w.add_context_length(512)
    w.add_embedding_length(g.hidden)
    w.add_feed_forward_length(g.ffn)
    w.add_head_count(g.heads)
    w.add_head_count_kv(g.kv_heads)
    w.add_rope_freq_base(g.theta)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(TOKENS))
    w.add_rope_dimension_count(g.head_dim)
    w.add_key_length(g.head_dim)
    w.add_value_length(g.head_dim)
    if g.linear:
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(g.linear)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(TOKENS)
    w.add_token_types([3 if t.startswith("<|") else 1 for t in TOKENS])
    w.add_token_merges(["t h", "th e"])
    w.add_bos_token_id(len(TOKENS) - 2)
    w.add_eos_token_id(len(TOKENS) - 1)
    w.add_add_bos_token(True)  # so that a BOS which the adapter forgot to forbid shows
    if g.divisors is not None:
        w.add_tensor("rope_freqs.weight", g.divisors.astype(np.float32))
    rng = np.random.default_rng(g.seed)
    for name, shape, scale in shapes(g):
        drawn = rng.standard_normal(shape)
        values = (1 + 0.1 * drawn if "norm" in name else scale * drawn).astype(np.float32)
        g.weights[name] = add(w, g, name, values).astype(np.float64)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def shapes(g: Geometry):
    q, kv = g.heads * g.head_dim, g.kv_heads * g.head_dim
    yield "token_embd.weight", (len(TOKENS), g.hidden), 1.0
    yield "output_norm.weight", (g.hidden,), 1.0
    if not g.tied:
        yield "output.weight", (len(TOKENS), g.hidden), 0.5
    for i in range(g.layers):
        p = f"blk.{i}."
        for name, out, columns in (
            ("attn_q", q, g.hidden),
            ("attn_k", kv, g.hidden),
            ("attn_v", kv, g.hidden),
            ("attn_output", g.hidden, q),
            ("ffn_gate", g.ffn, g.hidden),
            ("ffn_up", g.ffn, g.hidden),
            ("ffn_down", g.hidden, g.ffn),
        ):
            yield p + name + ".weight", (out, columns), columns**-0.5 * (2.0 if name in ("attn_q", "attn_k") else 1.0)
            if g.family == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                yield p + name + ".bias", (out,), 0.3
        yield p + "attn_norm.weight", (g.hidden,), 1.0
        yield p + "ffn_norm.weight", (g.hidden,), 1.0
        if g.family == "qwen3":
            yield p + "attn_q_norm.weight", (g.head_dim,), 1.0
            yield p + "attn_k_norm.weight", (g.head_dim,), 1.0


def add(w: gguf.GGUFWriter, g: Geometry, name: str, values: np.ndarray) -> np.ndarray:
    """Add one tensor as the file holds it; return the values that the model then has, half-split rows."""
    permuted = g.family == "llama" and name.split(".")[-2] in ("attn_q", "attn_k")
    stored = values
    if permuted:
        heads = values.shape[0] // g.head_dim
        stored = values.reshape(heads, 2, g.head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if values.ndim == 1 or g.encoding == "F32":
        w.add_tensor(name, np.ascontiguousarray(stored))
        return values
    kind = gguf.GGMLQuantizationType[g.encoding]
    data = stored.astype(np.float16) if g.encoding == "F16" else quantize(stored, kind)
    w.add_tensor(name, data, raw_dtype=kind)
    back = data.astype(np.float32) if g.encoding == "F16" else dequantize(data, kind)
    if permuted:
        back = back.reshape(heads, g.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
    return back


def forward(
    g: Geometry,
    ids: list[int],
    dtype: Any = np.float64,
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Logits [row, vocab], K (rotated, half-split) and V [row, kv_head, head_dim] per layer, computed in dtype."""
    weights, n = {name: values.astype(dtype) for name, values in g.weights.items()}, len(ids)
    x = weights["token_embd.weight"][ids]
    frequency = dtype(g.theta) ** (-np.arange(0, g.head_dim, 2) / g.head_dim).astype(dtype)
    divisors = (1 if g.divisors is None else g.divisors) * (g.linear or 1.0)
    angle = np.outer(np.arange(n).astype(dtype), (frequency / divisors).astype(dtype))  # in float32 as engines have it
    cos, sin = np.cos(angle)[:, None].astype(dtype), np.sin(angle)[:, None].astype(dtype)

    def norm(a, name):
        return a / np.sqrt((a * a).mean(-1, keepdims=True) + dtype(1e-5)) * weights[name]

    def rope(a):
        a, b = np.split(a, 2, axis=-1)
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)

    ks, vs = [], []
    mask = np.triu(np.full((n, n), -np.inf, dtype), 1)
    for i in range(g.layers):
        p = f"blk.{i}."
        h = norm(x, p + "attn_norm.weight")
        q, k, v = (
            h @ weights[p + m + ".weight"].T + weights.get(p + m + ".bias", dtype(0))
            for m in ("attn_q", "attn_k", "attn_v")
        )
        q, k, v = (a.reshape(n, -1, g.head_dim) for a in (q, k, v))
        if g.family == "qwen3":
            q, k = norm(q, p + "attn_q_norm.weight"), norm(k, p + "attn_k_norm.weight")
        q, k = rope(q), rope(k)
        ks.append(k)
        vs.append(v)
        group = g.heads // g.kv_heads
        scores = np.einsum("qhd,khd->hqk", q, np.repeat(k, group, 1)) / dtype(g.head_dim**0.5) + mask
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, np.repeat(v, group, 1)).reshape(n, -1)
        x = x + mixed @ weights[p + "attn_output.weight"].T
        h = norm(x, p + "ffn_norm.weight")
        gate = h @ weights[p + "ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ weights[p + "ffn_up.weight"].T)) @ weights[p + "ffn_down.weight"].T
    head = weights["token_embd.weight" if g.tied else "output.weight"]
    return norm(x, "output_norm.weight") @ head.T, ks, vs
