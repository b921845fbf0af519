"""Tensors of Hugging Face and MLX directories: one or many SafeTensors files, or MLX's `.npz` (R3).

Law: a shard index is only a promise; what counts is what the files hold, and both must agree. MLX affine groups
(`weight`, `scales`, `biases`) are recognised by their three tensors and checked against each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.quantise import AffineGroups, affine_dequantise
from zeitgeist.convert.safetensors_file import open_safetensors
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.core.errors import refuse
from zeitgeist.models.block_bounds import error_bound_affine
from zeitgeist.models.canonical_tensors import expected_shapes
from zeitgeist.models.json_file import read_json
from zeitgeist.models.opened import check_tensors, widen

__all__ = ["Affine", "HfSource", "TensorStore", "hf_name", "open_shards", "source_of"]

PLAIN = ("f32", "f16", "bf16")
SHARDS_MAX = 10_000
IGNORED_SUFFIX = "rotary_emb.inv_freq"
"""Old checkpoints store this buffer; every engine computes it instead."""

PARTS = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}


class TensorStore(Protocol):
    """Named tensors of one file."""

    def names(self) -> list[str]: ...
    def tensor(self, name: str) -> tuple[str, NDArray[Any]]: ...


@dataclass(frozen=True)
class Affine:
    """MLX's `quantization` of config.json: elements in a group, bits of a level."""

    group_size: int
    bits: int


def hf_name(canonical: str) -> str:
    """The name of a canonical tensor in a Hugging Face file."""
    if canonical in TOP:
        return TOP[canonical]
    _, index, part = canonical.split(".")
    return f"model.layers.{index}.{PARTS[part]}"


class HfSource:
    """`TensorSource` over stores. places: file name of a tensor → its store."""

    def __init__(self, places: Mapping[str, TensorStore], affine: Affine | None) -> None:
        self.places = places
        self.affine = affine

    def entry(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype, data) by the name in the file."""
        return self.places[name].tensor(name)

    def is_affine(self, stored: str) -> bool:
        """Whether a tensor comes as packed levels with scales and biases."""
        return self.affine is not None and stored.removesuffix(".weight") + ".scales" in self.places

    def groups(self, stored: str, affine: Affine) -> AffineGroups:
        """The three parts of a quantised matrix, scales and biases widened to float32."""
        base = stored.removesuffix(".weight")
        scales, biases = (widen(*self.entry(base + part)) for part in (".scales", ".biases"))
        return AffineGroups(self.entry(stored)[1], scales, biases, affine.bits, affine.group_size)

    def raw(self, name: str) -> tuple[str, NDArray[Any]]:
        stored = hf_name(name)
        dtype, data = self.entry(stored)
        if self.is_affine(stored) and self.affine:
            return f"mlx_affine_{self.affine.bits}_{self.affine.group_size}", data
        return dtype, data

    def values(self, name: str) -> NDArray[np.float32]:
        stored = hf_name(name)
        if self.is_affine(stored) and self.affine:
            return affine_dequantise(self.groups(stored, self.affine))
        return widen(*self.entry(stored))

    def bound(self, name: str) -> NDArray[np.float32] | None:
        stored = hf_name(name)
        if not self.is_affine(stored) or not self.affine:
            return None
        groups = self.groups(stored, self.affine)
        dtype, _ = self.entry(stored.removesuffix(".weight") + ".scales")
        return error_bound_affine(groups.scales, groups.biases, groups.bits, dtype)


def source_of(
    stores: Mapping[str, TensorStore], config: ModelConfig, tied_head: bool, affine: Affine | None, where: str
) -> HfSource:
    """Check what the stores (by file name) hold against the configuration, and give the source."""
    places: dict[str, TensorStore] = {}
    for file, store in stores.items():
        for name in store.names():
            if name in places:
                raise refuse(
                    "zg/model/tensor-unexpected", f"{file}: {name}", "the tensor in two files", "each tensor once"
                )
            if not name.endswith(IGNORED_SUFFIX):
                places[name] = store
    source = HfSource(places, affine)
    canonical = {hf_name(name): name for name in expected_shapes(config)}
    found = {
        canonical.get(name, name): check_entry(source, name, where)
        for name in places
        if not is_group_part(source, name)
    }
    check_tensors(config, tied_head, found, where)
    if tied_head and "head" in found and not np.array_equal(source.values("head"), source.values("embed")):
        raise refuse(
            "zg/model/bad-config",
            f"{where}: lm_head.weight",
            "other numbers than the embedding",
            "equal ones, since tie_word_embeddings is true",
        )
    return source


def is_group_part(source: HfSource, name: str) -> bool:
    """Scales and biases of affine groups are checked with their weight."""
    base, _, kind = name.rpartition(".")
    return source.affine is not None and kind in ("scales", "biases") and base + ".weight" in source.places


def check_entry(source: HfSource, name: str, where: str) -> tuple[int, ...]:
    """The logical shape of a stored tensor; its dtype, and for groups the fit of the three parts, checked."""
    dtype, data = source.entry(name)
    if not source.is_affine(name) or source.affine is None:
        if dtype not in PLAIN:
            raise refuse("zg/model/bad-shape", f"{where}: {name}", f"dtype {dtype}", ", ".join(PLAIN))
        return data.shape
    base, affine = name.removesuffix(".weight"), source.affine
    if dtype != "u32" or data.ndim != 2 or base + ".biases" not in source.places:
        raise refuse(
            "zg/model/bad-shape",
            f"{where}: {name}",
            f"{dtype} {list(data.shape)}",
            "u32 [out, words] with scales and biases",
        )
    columns = data.shape[1] * 32 // affine.bits
    for part in (".scales", ".biases"):
        kind, values = source.entry(base + part)
        if (
            kind not in PLAIN
            or values.shape != (data.shape[0], columns // affine.group_size)
            or columns % affine.group_size
        ):
            raise refuse(
                "zg/model/bad-shape",
                f"{where}: {base + part}",
                f"{kind} {list(values.shape)}",
                f"float [{data.shape[0]}, {columns // affine.group_size}]",
            )
    return data.shape[0], columns


def open_shards(directory: Path) -> tuple[dict[str, TensorStore], tuple[Path, ...]]:
    """(stores by file name, files read): model.safetensors, or the shards that its index names."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return {single.name: open_safetensors(single)}, (single,)
    fields = read_json(index).fields("weight_map")
    files = sorted({fields.text(name) for name in fields.values})
    if len(files) > SHARDS_MAX:
        raise refuse("zg/model/bad-config", f"{index.name}: weight_map", f"{len(files)} files", f"at most {SHARDS_MAX}")
    for file in files:
        if Path(file).name != file or "\0" in file or not file.endswith(".safetensors"):
            raise refuse(
                "zg/model/refused-format",
                f"{index.name}: weight_map",
                file,
                "a .safetensors file in the same directory",
            )
    stores: dict[str, TensorStore] = {file: open_safetensors(directory / file) for file in files}
    names = {file: set(store.names()) for file, store in stores.items()}
    for name, file in fields.values.items():
        if name not in names[file]:
            raise refuse(
                "zg/model/tensor-missing", f"{file}: {name}", "nothing", f"the tensor that {index.name} promises"
            )
    return stores, (index, *(directory / file for file in files))
