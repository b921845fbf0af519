"""What the oracle knows of a model: geometry and rotary frequencies, read from config.json or GGUF metadata.

Law: read independently of `zeitgeist.models`, so that one misreading cannot be on both sides of a comparison. What is
not known to leave the numbers alone is refused by name, never guessed (`zg/oracle/unknown`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import RemoteProtocolError, refuse

__all__ = ["F64", "FAMILIES", "OracleConfig", "frequencies", "integer", "read_config", "real"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
FAMILIES = ("llama", "qwen2", "qwen3")

NEUTRAL = frozenset(
    (
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "max_position_embeddings",
        "max_window_layers",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)
"""Keys of config.json that say nothing about the numbers of a forward pass."""

FIXED: Mapping[str, tuple[object, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu",),
    "pretraining_tp": (1, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
}
"""Keys that change the numbers: only these values are known."""

READ = frozenset(
    (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "tie_word_embeddings",
        "quantization",
        "quantization_config",
        "sliding_window",
        "layer_types",
    )
)


@dataclass(frozen=True)
class OracleConfig:
    """Geometry in elements. frequencies: radians per position of each rotary pair, float64 `[head_dim / 2]`.

    interleaved: True when the file holds q and k rows in interleaved order (GGUF of family llama).
    """

    family: str
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    frequencies: F64
    tied: bool
    interleaved: bool = False


def unknown(field: str, got: object, wanted: object) -> RemoteProtocolError:
    return refuse("zg/oracle/unknown", field, got, wanted)


def integer(source: Mapping[str, object], key: str) -> int:
    """A positive integer field below 2^31."""
    value = source.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise refuse("zg/oracle/bad-file", key, value, "a positive integer")
    return value


def real(source: Mapping[str, object], key: str) -> float:
    """A positive finite number field."""
    value = source.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise refuse("zg/oracle/bad-file", key, value, "a positive number")
    return float(value)


def frequencies(head_dim: int, theta: float, scaling: Mapping[str, object]) -> F64:
    """Radians per position of each pair: theta^(-2i/d), scaled as `rope_type` says (default, linear, llama3)."""
    plain = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    known: dict[object, tuple[str, ...]] = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in known:
        raise unknown("rope_type", kind, "default, linear or llama3")
    extra = sorted(set(scaling) - {"rope_type", "type", "rope_theta", *known[kind]} - neutral_rope(scaling))
    if extra:
        raise unknown(f"rope_parameters.{extra[0]}", scaling[extra[0]], f"none, with rope_type {kind}")
    if kind == "default":
        return plain
    factor = real(scaling, "factor")
    if kind == "linear":
        return plain / factor
    low, high = real(scaling, "low_freq_factor"), real(scaling, "high_freq_factor")
    turns = real(scaling, "original_max_position_embeddings") * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (kept + (1.0 - kept) / factor)


def neutral_rope(scaling: Mapping[str, object]) -> set[str]:
    """Rope keys that are written out with the value that does nothing."""
    return {key for key, value in scaling.items() if value is None or (key == "partial_rotary_factor" and value == 1)}


def rope_of(config: Mapping[str, object]) -> tuple[float, Mapping[str, object]]:
    """(theta, scaling) from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`; no contradiction."""
    nested: object = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(nested, Mapping):
        raise refuse("zg/oracle/bad-file", "rope_parameters", nested, "an object")
    scaling = cast("Mapping[str, object]", nested)
    thetas = {real(source, "rope_theta") for source in (config, scaling) if source.get("rope_theta") is not None}
    if len(thetas) != 1:
        raise unknown("rope_theta", sorted(thetas) or "none", "exactly one value; a default is never assumed")
    return thetas.pop(), scaling


def refuse_unknown(config: Mapping[str, object]) -> None:
    """Refuse any key or value that might change the numbers in a way the oracle does not have."""
    for key in sorted(config):
        value = config[key]
        if key in FIXED:
            if value not in FIXED[key]:
                raise unknown(key, value, FIXED[key][0])
        elif key not in NEUTRAL and key not in READ and not key.startswith("_"):
            raise unknown(key, value, "a key that the oracle knows")
    if config.get("sliding_window") is not None and config.get("use_sliding_window") is not False:
        raise unknown("sliding_window", config["sliding_window"], "none")
    kinds = config.get("layer_types")
    if kinds is not None and set(cast("list[str]", kinds)) != {"full_attention"}:
        raise unknown("layer_types", kinds, "full_attention only")


def read_config(config: Mapping[str, object]) -> OracleConfig:
    """The configuration of a Hugging Face or MLX directory."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise unknown("model_type", family, ", ".join(FAMILIES))
    refuse_unknown(config)
    heads, hidden = integer(config, "num_attention_heads"), integer(config, "hidden_size")
    explicit = config.get("head_dim") is not None
    if not explicit and (family == "qwen3" or hidden % heads):
        raise unknown("head_dim", "none", f"a value, for family {family} with {hidden} elements and {heads} heads")
    head_dim = integer(config, "head_dim") if explicit else hidden // heads
    kv_heads = integer(config, "num_key_value_heads")
    if heads % kv_heads or head_dim % 2:
        raise refuse("zg/oracle/bad-file", "num_key_value_heads, head_dim", (kv_heads, head_dim), "a divisor; even")
    theta, scaling = rope_of(config)
    return OracleConfig(
        family=str(family),
        hidden_size=hidden,
        layer_count=integer(config, "num_hidden_layers"),
        head_count=heads,
        kv_head_count=kv_heads,
        head_dim=head_dim,
        ffn_size=integer(config, "intermediate_size"),
        vocab_size=integer(config, "vocab_size"),
        norm_eps=real(config, "rms_norm_eps"),
        rope_theta=theta,
        frequencies=frequencies(head_dim, theta, scaling),
        tied=config.get("tie_word_embeddings") is True,
    )
