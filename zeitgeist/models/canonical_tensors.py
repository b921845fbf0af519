"""Which tensors a model has: canonical names, canonical order, shapes from the configuration (A3).

Law: names and shapes follow from `ModelConfig` alone, so a file is checked against them before a number is read.
"""

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.core.ids import Real

__all__ = ["expected_shapes", "interleave_rows", "parameter_count", "real", "split_rows"]


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name → shape, in canonical order. The head is always listed: a tied one equals the embedding."""
    hidden, ffn = config.hidden_size, config.ffn_size
    q_size, kv_size = config.head_count * config.head_dim, config.kv_head_count * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "q": (q_size, hidden),
        "k": (kv_size, hidden),
        "v": (kv_size, hidden),
        "o": (hidden, q_size),
    }
    if config.qkv_bias:
        layer |= {"q_bias": (q_size,), "k_bias": (kv_size,), "v_bias": (kv_size,)}
    if config.qk_norm:
        layer |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    layer |= {"ffn_norm": (hidden,), "gate": (ffn, hidden), "up": (ffn, hidden), "down": (hidden, ffn)}
    shapes: dict[str, tuple[int, ...]] = {"embed": (config.vocab_size, hidden)}
    for index in range(config.layer_count):
        shapes |= {f"layers.{index}.{part}": shape for part, shape in layer.items()}
    return shapes | {"norm": (hidden,), "head": (config.vocab_size, hidden)}


def parameter_count(config: ModelConfig, tied_head: bool) -> int:
    """Numbers stored: a tied head is counted once."""
    total = sum(int(np.prod(shape)) for shape in expected_shapes(config).values())
    return total - config.vocab_size * config.hidden_size * tied_head


def real(value: float) -> Real:
    """A constant as the shortest text that reads back as the same float32: 1e-05, 10000.0, 1000000.0.

    NumPy finds the shortest digits; Python prints them, because NumPy's choice of an exponent differs between releases.
    """
    return Real(repr(float(str(np.float32(value)))))


def interleave_rows(rows: NDArray[np.generic], head_count: int) -> NDArray[np.generic]:
    """Rows of q or k from half-split rotary order to interleaved, as GGUF holds them for arch `llama`.

    rows: [head_count * head_dim, ...] of any dtype, so that block scales and packed rows can be permuted too; copied.
    """
    head_dim = rows.shape[0] // head_count
    return rows.reshape(head_count, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def split_rows(rows: NDArray[np.generic], head_count: int) -> NDArray[np.generic]:
    """The inverse of `interleave_rows`."""
    head_dim = rows.shape[0] // head_count
    return rows.reshape(head_count, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
