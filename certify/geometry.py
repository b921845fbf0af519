"""Geometry models: tiny networks with random weights, made from a seed on the spot, because bugs hide in geometry (G).

Law: name and seed give the same bytes everywhere. The form is Hugging Face's as transformers 5 writes it, and every
reader of that form can load it. The tokenizer is that of zg-tiny, so that all of them take the same token ids; the
widths are chosen so that logits have a spread of about 5 and the best token stands out.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig, RopeConfig
from zeitgeist.core.ids import Real
from zeitgeist.models.canonical_tensors import expected_shapes
from zeitgeist.models.safetensors_source import hf_name
from zeitgeist.models.to_hf import config_fields, write_directory, write_json

__all__ = ["GEOMETRIES", "Geometry", "geometry_config", "write_geometry"]

TOKENIZER = Path(__file__).with_name("geometry_tokenizer.json")
VOCAB_SIZE = 512
BOS, EOS = 0, 1
LOGIT_SPREAD = 5.0
"""Standard deviation of the logits: zg-tiny's are 4 to 6, so margins and rounding are of a trained model's size."""
QUERY_GAIN = 2.0
"""Attention scores then have a deviation of about 2: some heads look at few tokens, so positions matter."""
CONTEXT_LENGTH = 2048


@dataclass(frozen=True)
class Geometry:
    """One shape of model. rope: kind of scaling; theta: base of the rotary embedding; all sizes in elements."""

    name: str
    family: Literal["llama", "qwen2", "qwen3"]
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    ffn_size: int
    tied_head: bool
    theta: str
    scaling: Literal["none", "linear", "llama3"] = "none"


GEOMETRIES: tuple[Geometry, ...] = (
    Geometry("llama-d64-kv1-gqa4-tied-theta500k", "llama", 128, 2, 4, 1, 64, 192, True, "500000.0"),
    Geometry("llama-d128-kv2-gqa1-linear", "llama", 128, 2, 2, 2, 128, 256, False, "10000.0", "linear"),
    Geometry("llama-d80-kv2-gqa1", "llama", 160, 3, 2, 2, 80, 192, False, "10000.0"),
    Geometry("llama-d64-kv1-gqa7-llama3", "llama", 224, 2, 7, 1, 64, 256, False, "500000.0", "llama3"),
    Geometry("llama-d128-kv2-gqa4-llama3-tied", "llama", 128, 2, 8, 2, 128, 192, True, "500000.0", "llama3"),
    Geometry("qwen2-d64-kv1-gqa7-tied", "qwen2", 448, 2, 7, 1, 64, 256, True, "1000000.0"),
    Geometry("qwen2-d80-kv2-gqa4-linear", "qwen2", 640, 2, 8, 2, 80, 192, False, "500000.0", "linear"),
    Geometry("qwen3-d128-kv2-gqa4-tied", "qwen3", 128, 2, 8, 2, 128, 192, True, "1000000.0"),
    Geometry("qwen3-d64-kv1-gqa7", "qwen3", 224, 3, 7, 1, 64, 192, False, "500000.0"),
)
"""kv_heads 1 and 2; head_dim 64, 80, 128.

GQA 1, 4, 7; tied and not; bases besides 10,000; both scalings; biases; norms.
"""


def geometry_config(geometry: Geometry) -> ModelConfig:
    """The canonical configuration.

    Llama3 scaling has Llama 3.1's factors with a context short enough to matter here.
    """
    rope = RopeConfig(theta=Real(geometry.theta))
    if geometry.scaling == "linear":
        rope = RopeConfig(theta=Real(geometry.theta), scaling="linear", factor=Real("4.0"))
    elif geometry.scaling == "llama3":
        rope = RopeConfig(
            theta=Real(geometry.theta),
            scaling="llama3",
            factor=Real("8.0"),
            low_freq_factor=Real("1.0"),
            high_freq_factor=Real("4.0"),
            original_context=256,
        )
    return ModelConfig(
        family=geometry.family,
        hidden_size=geometry.hidden_size,
        layer_count=geometry.layer_count,
        head_count=geometry.head_count,
        kv_head_count=geometry.kv_head_count,
        head_dim=geometry.head_dim,
        ffn_size=geometry.ffn_size,
        vocab_size=VOCAB_SIZE,
        norm_eps=Real("1e-06"),
        rope=rope,
        qkv_bias=geometry.family == "qwen2",
        qk_norm=geometry.family == "qwen3",
        context_length=CONTEXT_LENGTH,
    )


def write_geometry(geometry: Geometry, seed: int, directory: Path) -> Path:
    """Write a Hugging Face directory (config.json, model.safetensors in float32, tokenizer) and return it."""
    config = geometry_config(geometry)
    fields = config_fields(config, geometry.tied_head, BOS, EOS)
    write_directory(directory, fields, random_tensors(geometry, config, seed), "pt")
    shutil.copyfile(TOKENIZER, directory / "tokenizer.json")
    write_json(directory / "tokenizer_config.json", tokenizer_settings())
    return directory


def tokenizer_settings() -> dict[str, Any]:
    """tokenizer_config.json: start and end by name; nothing is added by itself."""
    added = {item["id"]: item["content"] for item in json.loads(TOKENIZER.read_text("utf-8"))["added_tokens"]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": added[BOS],
        "eos_token": added[EOS],
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_LENGTH,
    }


def random_tensors(geometry: Geometry, config: ModelConfig, seed: int) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """(name in the file, dtype, float32 values).

    Each tensor from a generator keyed by name, so none disturbs another.
    """
    for name, shape in expected_shapes(config).items():
        if name == "head" and geometry.tied_head:
            continue
        key = hashlib.sha256(f"{geometry.name}/{seed}/{name}".encode()).digest()
        normal = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little"))).standard_normal(shape)
        yield hf_name(name), "f32", scaled(name, normal, geometry).astype("<f4")


def scaled(name: str, normal: NDArray[np.float64], geometry: Geometry) -> NDArray[np.float64]:
    """Unit noise → weights: outputs of every matrix keep unit size, the head gives `LOGIT_SPREAD`."""
    part = name.rpartition(".")[2]
    if part in ("norm", "attn_norm", "ffn_norm", "q_norm", "k_norm"):
        gain = QUERY_GAIN if part == "q_norm" else 1.0
        return gain * (1 + 0.2 * normal)
    if part.endswith("_bias"):
        return 0.5 * normal
    if part == "head" or (part == "embed" and geometry.tied_head):
        return LOGIT_SPREAD / geometry.hidden_size**0.5 * normal
    if part == "embed":
        return normal
    gain = QUERY_GAIN if part == "q" and geometry.family != "qwen3" else 1.0
    return gain / normal.shape[1] ** 0.5 * normal
