"""Writing Hugging Face and MLX directories from canonical tensors (R3).

Law: the configuration is written in the form of the reader: transformers 5 wants `rope_parameters`, and mlx-lm 0.32.2
reads `rope_theta` and `rope_scaling` at the top for llama and qwen2, so an MLX directory has both, saying the same.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.safetensors_file import pack
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.models.safetensors_source import hf_name

__all__ = ["config_fields", "rope_fields", "write_directory", "write_json"]

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

Stored = tuple[str, str, NDArray[Any]]
"""(name in the file, dtype name, data)."""


def rope_fields(config: ModelConfig) -> dict[str, Any]:
    """`rope_parameters` as transformers 5 writes them."""
    rope = config.rope
    fields: dict[str, Any] = {"rope_theta": float(rope.theta), "rope_type": "default"}
    if rope.scaling != "none":
        fields |= {"rope_type": rope.scaling, "factor": float(rope.factor)}
    if rope.scaling == "llama3":
        fields |= {
            "low_freq_factor": float(rope.low_freq_factor),
            "high_freq_factor": float(rope.high_freq_factor),
            "original_max_position_embeddings": rope.original_context,
        }
    return fields


def config_fields(config: ModelConfig, tied_head: bool, bos: int | None, eos: int | None) -> dict[str, Any]:
    """config.json of transformers 5."""
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": None,
        "dtype": "float32",
        "hidden_act": "silu",
        "head_dim": config.head_dim,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.context_length,
        "num_attention_heads": config.head_count,
        "num_hidden_layers": config.layer_count,
        "num_key_value_heads": config.kv_head_count,
        "rms_norm_eps": float(config.norm_eps),
        "rope_parameters": rope_fields(config),
        "tie_word_embeddings": tied_head,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if config.family == "llama":
        fields |= {"attention_bias": False, "mlp_bias": False}
    else:
        fields |= {
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": ["full_attention"] * config.layer_count,
        }
    if config.family == "qwen3":
        fields["attention_bias"] = False
    return fields


def write_directory(
    directory: Path, fields: dict[str, Any], tensors: Iterable[tuple[str, str, NDArray[Any]]], file_format: str
) -> None:
    """config.json and model.safetensors.

    Tensors: (canonical name or name in the file, dtype, data); format: pt or mlx.
    """
    stored = sorted(tensors, key=lambda item: item[0])  # all of them first: a refusal must leave nothing behind
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(pack(stored, {"format": file_format}))
    write_json(directory / "config.json", fields)


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Sorted, so that equal content gives equal bytes."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", "utf-8")


def plain(name: str, values: NDArray[np.float32]) -> Stored:
    """A float32 tensor under its Hugging Face name."""
    return hf_name(name), "f32", np.ascontiguousarray(values, "<f4")
