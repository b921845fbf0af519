"""How the oracle reads weights: SafeTensors and MLX groups by NumPy alone, GGUF by the `gguf` package; all to float64.

Law: every tensor of the files is used or refused, every tensor of the model is found in its exact shape.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from certify.oracle_config import F64, FAMILIES, OracleConfig, frequencies, integer, read_config, real
from zeitgeist.core.errors import refuse

__all__ = ["Matrix", "read_model", "read_safetensors"]

Array = NDArray[Any]
DTYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4"}
STORED: Mapping[str, str] = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}
HEADER_MAX = 100 * 1024 * 1024
"""The format's own limit."""


@dataclass(frozen=True)
class Matrix:
    """Values float64 as the model means them.

    stored: the file's type (`f32`, `bf16`, `ggml_q8_0`, `mlx_affine` …); minima: of each block of 32, for Q4_1.
    """

    values: F64
    stored: str
    minima: F64 | None = None


def bad(path: Path, got: object, wanted: object) -> Exception:
    return refuse("zg/oracle/bad-file", path.name, got, wanted)


def read_safetensors(path: Path) -> dict[str, tuple[str, Array]]:
    """name → (dtype word, array as stored; BF16 as uint16). Bounds are checked before anything is taken."""
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    length = int.from_bytes(bytes(data[:8]), "little")
    if data.size < 8 or length > min(HEADER_MAX, data.size - 8):
        raise bad(path, f"{data.size} bytes with a header of {length}", "a whole SafeTensors file")
    try:
        header = cast("dict[str, dict[str, Any]]", json.loads(bytes(data[8 : 8 + length])))
    except ValueError as error:
        raise bad(path, error, "a JSON header") from error
    body, found = data[8 + length :], dict[str, tuple[str, Array]]()
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        word, shape, (start, stop) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        if word not in DTYPES:
            raise refuse("zg/oracle/unknown", name, word, ", ".join(DTYPES))
        dtype = np.dtype(DTYPES[word])
        if not 0 <= start <= stop <= body.size or stop - start != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise bad(path, f"{name} at {start} … {stop} of {body.size}", "a span that its shape fills")
        found[name] = word, np.frombuffer(bytes(body[start:stop]), dtype).reshape(shape)
    return found


def widen(word: str, data: Array) -> F64:
    """A stored array as float64."""
    if word == "BF16":
        return (data.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return data.astype(np.float64)


def mlx_affine(packed: Array, scales: F64, biases: F64, bits: int, group_size: int) -> F64:
    """Unpack MLX's affine groups: q from the low bits of each uint32 upward, value = q · scale + bias."""
    per_word = 32 // bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    steps = (packed[:, :, None] >> shifts) & np.uint32(2**bits - 1)
    steps = steps.reshape(packed.shape[0], -1, group_size).astype(np.float64)
    return (steps * scales[:, :, None] + biases[:, :, None]).reshape(packed.shape[0], -1)


def hf_names(config: OracleConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Our name → (Hugging Face name, shape)."""
    hidden, queries, keys = (
        config.hidden_size,
        config.head_count * config.head_dim,
        config.kv_head_count * config.head_dim,
    )
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "embed": ("model.embed_tokens.weight", (config.vocab_size, hidden)),
        "norm": ("model.norm.weight", (hidden,)),
        "head": ("lm_head.weight", (config.vocab_size, hidden)),
    }
    for i in range(config.layer_count):
        layer: dict[str, tuple[str, tuple[int, ...]]] = {
            "attn_norm": ("input_layernorm.weight", (hidden,)),
            "ffn_norm": ("post_attention_layernorm.weight", (hidden,)),
            "q": ("self_attn.q_proj.weight", (queries, hidden)),
            "k": ("self_attn.k_proj.weight", (keys, hidden)),
            "v": ("self_attn.v_proj.weight", (keys, hidden)),
            "o": ("self_attn.o_proj.weight", (hidden, queries)),
            "gate": ("mlp.gate_proj.weight", (config.ffn_size, hidden)),
            "up": ("mlp.up_proj.weight", (config.ffn_size, hidden)),
            "down": ("mlp.down_proj.weight", (hidden, config.ffn_size)),
        }
        if config.family == "qwen2":
            sizes = (("q", queries), ("k", keys), ("v", keys))
            layer |= {f"{p}_bias": (f"self_attn.{p}_proj.bias", (size,)) for p, size in sizes}
        if config.family == "qwen3":
            layer |= {f"{p}_norm": (f"self_attn.{p}_norm.weight", (config.head_dim,)) for p in "qk"}
        names |= {f"{i}.{name}": (f"model.layers.{i}.{theirs}", shape) for name, (theirs, shape) in layer.items()}
    return names


def take(
    config: OracleConfig,
    present: set[str],
    names: Mapping[str, tuple[str, tuple[int, ...]]],
    read: Callable[[str], Matrix],
) -> dict[str, Matrix]:
    """All tensors of the model in our names; a missing one, another shape or one left over is refused."""
    left = set(present)
    weights: dict[str, Matrix] = {}
    for ours, (theirs, shape) in names.items():
        if theirs not in present:
            if ours == "head" and config.tied:
                continue
            raise refuse("zg/oracle/bad-file", theirs, "no such tensor", shape)
        weights[ours] = read(theirs)
        left.discard(theirs)
        if weights[ours].values.shape != shape:
            raise refuse("zg/oracle/bad-file", theirs, weights[ours].values.shape, shape)
    if left:
        raise refuse("zg/oracle/unknown", min(left), "a tensor", "only tensors that the oracle knows")
    head = weights.setdefault("head", weights["embed"])
    if config.tied and not np.array_equal(head.values, weights["embed"].values):
        raise refuse("zg/oracle/unknown", "head", "a tied head that differs from the embedding", "equal tensors")
    return weights


def read_directory(path: Path) -> tuple[OracleConfig, dict[str, Matrix]]:
    """A Hugging Face or MLX directory: config.json and all *.safetensors in it."""
    try:
        raw = cast("dict[str, object]", json.loads((path / "config.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise bad(path / "config.json", error, "a JSON object") from error
    config = read_config(raw)
    tensors: dict[str, tuple[str, Array]] = {}
    for file in sorted(path.glob("*.safetensors")):
        found = read_safetensors(file)
        if twice := sorted(set(found) & set(tensors)):
            raise bad(file, f"{twice[0]} a second time", "each tensor once")
        tensors |= found
    quantization = cast("Mapping[str, object]", raw.get("quantization") or {})
    packed = {name.removesuffix(".scales") for name in tensors if name.endswith(".scales")}
    if packed and set(quantization) - {"mode"} != {"bits", "group_size"}:
        raise refuse("zg/oracle/unknown", "quantization", quantization, "bits and group_size, one for all tensors")
    if quantization.get("mode", "affine") != "affine" or (packed and quantization["bits"] not in (2, 4, 8)):
        raise refuse("zg/oracle/unknown", "quantization", quantization, "mode affine with 2, 4 or 8 bits")

    def read(name: str) -> Matrix:
        word, data = tensors[name]
        stem = name.removesuffix(".weight")
        if stem not in packed:
            if word == "U32":
                raise refuse("zg/oracle/bad-file", name, "packed integers without scales", "scales and biases")
            return Matrix(widen(word, data), STORED[word])
        scales, biases = (widen(*tensors[f"{stem}.{part}"]) for part in ("scales", "biases"))
        bits, group = integer(quantization, "bits"), integer(quantization, "group_size")
        if scales.shape != biases.shape or scales.shape != (data.shape[0], data.shape[1] * 32 // bits // group):
            raise refuse("zg/oracle/bad-file", f"{stem}.scales", scales.shape, f"groups of {group} along each row")
        return Matrix(mlx_affine(data, scales, biases, bits, group), "mlx_affine")

    parts = {f"{stem}.{part}" for stem in packed for part in ("scales", "biases")}
    return config, take(config, set(tensors) - parts, hf_names(config), read)


def read_model(path: Path) -> tuple[OracleConfig, dict[str, Matrix]]:
    """Configuration and weights of a directory or a `.gguf` file."""
    if path.is_dir():
        return read_directory(path)
    if path.suffix == ".gguf" and path.is_file():
        return read_gguf(path)
    raise bad(path, "neither a directory nor a .gguf file", "a model")


GGUF_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(hf: str) -> str:
    """The GGUF name of a Hugging Face tensor."""
    stem, _, kind = hf.rpartition(".")
    if stem.startswith("model.layers."):
        index, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{index}.{GGUF_NAMES[part]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def gguf_config(fields: Mapping[str, object], tensors: set[str], factors: F64 | None) -> OracleConfig:
    """The configuration that GGUF metadata states; a missing base or head count is refused, not defaulted."""
    family = fields.get("general.architecture")
    if family not in FAMILIES:
        raise refuse("zg/oracle/unknown", "general.architecture", family, ", ".join(FAMILIES))
    own = {key.removeprefix(f"{family}."): value for key, value in fields.items() if key.startswith(f"{family}.")}
    known = {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "attention.layer_norm_rms_epsilon",
        "rope.freq_base",
        "vocab_size",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
    }
    if extra := sorted(set(own) - known):
        raise refuse("zg/oracle/unknown", f"{family}.{extra[0]}", own[extra[0]], "a key that the oracle knows")
    heads, hidden = integer(own, "attention.head_count"), integer(own, "embedding_length")
    head_dim = integer(own, "attention.key_length") if "attention.key_length" in own else hidden // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, head_dim) != head_dim:
            raise refuse("zg/oracle/unknown", f"{family}.{key}", own[key], head_dim)
    scaling: dict[str, object] = {"rope_type": own.get("rope.scaling.type", "default")}
    if scaling["rope_type"] in ("none", "default"):
        scaling = {"rope_type": "default"}
    elif "rope.scaling.factor" in own:
        scaling["factor"] = own["rope.scaling.factor"]
    theta = real(own, "rope.freq_base")
    rotation = frequencies(head_dim, theta, scaling)
    return OracleConfig(
        family=str(family),
        hidden_size=hidden,
        layer_count=integer(own, "block_count"),
        head_count=heads,
        kv_head_count=integer(own, "attention.head_count_kv"),
        head_dim=head_dim,
        ffn_size=integer(own, "feed_forward_length"),
        vocab_size=0,
        norm_eps=real(own, "attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        frequencies=rotation if factors is None else rotation / factors,
        tied="output.weight" not in tensors,
        interleaved=family == "llama",
    )


def q4_1_minima(data: Array) -> F64:
    """The minimum of each block `[out, in / 32]`; a block is d and m as f16, then 16 bytes of steps (`block_q4_1`)."""
    blocks = np.ascontiguousarray(data).view(np.uint8).reshape(data.shape[0], -1, 20)
    return np.ascontiguousarray(blocks[:, :, 2:4]).view("<f2")[:, :, 0].astype(np.float64)


def read_gguf(path: Path) -> tuple[OracleConfig, dict[str, Matrix]]:
    """A GGUF file; q and k rows of family llama are brought from interleaved to half-split order."""
    gguf: Any = importlib.import_module("gguf")
    try:
        reader: Any = gguf.GGUFReader(str(path))
        fields: dict[str, object] = {
            key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")
        }
        entries: dict[str, Any] = {str(entry.name): entry for entry in reader.tensors}
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise bad(path, error, "a GGUF file") from error

    def read(name: str) -> Matrix:
        entry = entries[name]
        kind = str(entry.tensor_type.name).lower()
        if kind not in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"):
            raise refuse("zg/oracle/unknown", name, kind, "f32, f16, bf16, q8_0, q4_0 or q4_1")
        values = gguf.quants.dequantize(entry.data, entry.tensor_type)
        minima = q4_1_minima(entry.data) if kind == "q4_1" else None
        return Matrix(np.asarray(values, dtype=np.float64), kind if kind in STORED.values() else f"ggml_{kind}", minima)

    factors = read("rope_freqs.weight").values if "rope_freqs.weight" in entries else None
    config = gguf_config(fields, set(entries), factors)
    if "token_embd.weight" not in entries:
        raise bad(path, "no token_embd.weight", "an embedding")
    config = replace(config, vocab_size=read("token_embd.weight").values.shape[0])
    names = {ours: (gguf_name(theirs), shape) for ours, (theirs, shape) in hf_names(config).items()}
    weights = take(config, set(entries) - {"rope_freqs.weight"}, names, read)
    if config.interleaved:
        for name in [n for n in weights if n.endswith((".q", ".k"))]:
            rows = weights[name].values.reshape(-1, config.head_dim // 2, 2, config.hidden_size)
            weights[name] = replace(weights[name], values=rows.swapaxes(1, 2).reshape(-1, config.hidden_size))
    return config, weights
