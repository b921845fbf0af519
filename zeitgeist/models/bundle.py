"""A model on disk, in any form, seen as canonical configuration, canonical tensors and tokenizer (A3, R3).

Canonical tensor names: `embed`, `layers.<i>.{attn_norm,q,k,v,o,q_bias,k_bias,v_bias,q_norm,k_norm,ffn_norm,gate,up,down}`,
`norm`, `head`. Matrices are `[out, in]`; q and k rows are in half-split rotary order whatever the file holds; a tied
head is given as the embedding. Nothing is executed: pickle, remote code and unknown architectures are refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor

__all__ = ["ModelBundle", "TokenizerData", "open_bundle"]


class TokenizerData(Protocol):
    """Byte-level BPE as data: bytes by id, merges in rank order, special ids with their texts."""

    token_bytes: tuple[bytes, ...]
    merges: tuple[tuple[str, str], ...]
    specials: dict[str, int]
    chat_template: str
    bos: int | None
    eos: int | None


class ModelBundle(Protocol):
    """An opened model. Tensors are read from disk when asked for; closing is not needed."""

    path: Path
    form: str
    config: ModelConfig
    tokenizer: TokenizerData

    def descriptor(self) -> ModelDescriptor:
        """Identity with all digests; reads every tensor once, then cached."""
        ...

    def names(self) -> Sequence[str]:
        """Canonical tensor names, in canonical order."""
        ...

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Values of one tensor, dequantised, canonical order, float32."""
        ...

    def rope_factors(self) -> NDArray[np.float32]:
        """Divisors of the inverse frequencies, float32 `[head_dim / 2]`; ones when unscaled."""
        ...

    def raw(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype or quantisation schema, stored data as in the file, rows permuted as the file has them)."""
        ...


def open_bundle(path: Path) -> ModelBundle:
    """Open a directory (Hugging Face, MLX), a `.gguf` or a `.safetensors` beside its config; refuse anything else by name."""
    raise AssertionError("replaced by the models slice")
