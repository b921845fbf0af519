"""Model identity: the canonical configuration, three digests, and the relation of two artifacts (A3, DESIGN §5).

Weights and tokenizer are one atomic identity. The canonical configuration holds only what changes the numbers, so
that the Hugging Face, GGUF and MLX forms of one model have one digest; ties are resolved before.
"""

from typing import Literal

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import Digest, Real

__all__ = ["FAMILIES", "ModelConfig", "ModelDescriptor", "Relation", "RopeConfig"]

FAMILIES = ("llama", "qwen2", "qwen3")
"""Architectures whose arithmetic we know. Any other is refused by name, never guessed."""


class RopeConfig(Record, frozen=True, kw_only=True):
    """Rotary embedding: base and scaling. Parameters not used by the kind are "0"/0.

    scaling `none`; `linear`: positions divided by factor; `llama3`: by-frequency interpolation with low_freq_factor,
    high_freq_factor and original_context. A GGUF holds only the resulting divisors; then scaling is `factors`.
    The model digest covers the divisors (float32, head_dim / 2), not these words.
    """

    theta: Real
    scaling: Literal["none", "linear", "llama3", "factors"] = "none"
    factor: Real = Real("0")
    low_freq_factor: Real = Real("0")
    high_freq_factor: Real = Real("0")
    original_context: int = 0


class ModelConfig(Record, frozen=True, kw_only=True):
    """Geometry and constants of one decoder-only transformer. All sizes in elements."""

    family: Literal["llama", "qwen2", "qwen3"]
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    norm_eps: Real
    rope: RopeConfig
    qkv_bias: bool
    qk_norm: bool
    context_length: int


class ModelDescriptor(Record, frozen=True, kw_only=True):
    """One artifact and what it is. `model` equal means: same numbers, cache exchange allowed (DESIGN §5).

    artifact: BLAKE3 of the files; model: Merkle root over canonical tensors as float32 and the configuration;
    tokenizer: digest of vocabulary, merges, specials, chat template and the ids of the probe text;
    weights: dtype or quantisation tag as stored (`f32`, `f16`, `bf16`, `ggml_q8_0`, `mlx_affine_4_32` …).
    """

    model_version: int = 1
    name: str
    form: Literal["hf", "safetensors", "gguf", "mlx"]
    config: ModelConfig
    tied_head: bool
    parameter_count: int
    weights: str
    artifact: Digest
    model: Digest
    tokenizer: Digest
    vocabulary: Digest


class Relation(Record, frozen=True, kw_only=True):
    """How one artifact relates to a parent: proven by dequantising within the block error, else `claimed`."""

    kind: Literal["exact", "rounded", "quantised", "claimed", "unrelated"]
    parent: Digest
    schema: str = ""
    evidence: str = ""
