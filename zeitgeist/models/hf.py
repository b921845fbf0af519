"""Hugging Face and MLX directories, and a `.safetensors` or `.npz` beside its config.json → an opened model (R3).

A directory is `mlx` when its configuration has `quantization`, its weights are an `.npz`, or the file says format
`mlx`.
"""

from pathlib import Path
from typing import Literal

from zeitgeist.convert.safetensors_file import SafeTensorsFile, open_safetensors
from zeitgeist.core.errors import refuse
from zeitgeist.models.hf_config import read_config
from zeitgeist.models.hf_tokenizer import TOKENIZER_FILES, read_hf_tokenizer
from zeitgeist.models.json_file import JsonFields, read_json
from zeitgeist.models.npz_file import open_npz
from zeitgeist.models.opened import OpenedModel
from zeitgeist.models.safetensors_source import Affine, TensorStore, open_shards, source_of

__all__ = ["open_directory", "open_weights_file"]

GROUP_SIZES = (32, 64, 128)
BITS = (4, 8)
"""The affine groups whose arithmetic stands in convert/quantise.py; others are refused by name."""


def open_directory(directory: Path) -> OpenedModel:
    """A directory with config.json and SafeTensors weights, or MLX's weights.npz."""
    npz = directory / "weights.npz"
    if (directory / "model.safetensors").is_file() or (directory / "model.safetensors.index.json").is_file():
        return assemble(directory, *open_shards(directory), "hf")
    if npz.is_file():
        return assemble(directory, {npz.name: open_npz(npz)}, (npz,), "mlx")
    found = ", ".join(sorted(path.name for path in directory.iterdir())[:8])
    raise refuse(
        "zg/model/tensor-missing",
        directory.name,
        f"the files {found or 'none'}",
        "model.safetensors, model.safetensors.index.json or weights.npz",
    )


def open_weights_file(path: Path) -> OpenedModel:
    """One weights file; config.json and the tokenizer lie beside it."""
    if path.suffix == ".npz":
        return assemble(path.parent, {path.name: open_npz(path)}, (path,), "mlx")
    return assemble(path.parent, {path.name: open_safetensors(path)}, (path,), "safetensors")


def assemble(
    directory: Path,
    stores: dict[str, TensorStore],
    weights: tuple[Path, ...],
    form: Literal["hf", "safetensors", "mlx"],
) -> OpenedModel:
    """Configuration, tensors and tokenizer put together and checked against each other."""
    fields = read_json(directory / "config.json")
    config, tied_head = read_config(fields)
    affine = read_affine(fields)
    source = source_of(stores, config, tied_head, affine, directory.name)
    says_mlx = any(
        isinstance(store, SafeTensorsFile) and store.metadata.get("format") == "mlx" for store in stores.values()
    )
    beside = tuple(directory / name for name in ("config.json", *TOKENIZER_FILES) if (directory / name).is_file())
    path = directory if form != "safetensors" and weights[0].name != "weights.npz" else weights[0]
    return OpenedModel(
        path=path,
        form="mlx" if affine or says_mlx else form,
        name=directory.resolve().name,
        config=config,
        tied_head=tied_head,
        source=source,
        files=(*weights, *beside),
        read_tokenizer=lambda: read_hf_tokenizer(directory, fields),
    )


def read_affine(fields: JsonFields) -> Affine | None:
    """MLX's `quantization`: group_size and bits, mode affine; per-layer settings are refused by name."""
    if fields.get("quantization") is None:
        return None
    inside = fields.fields("quantization")
    for name in sorted(set(inside.values) - {"group_size", "bits", "mode"}):
        raise refuse("zg/model/unsupported", f"{inside.where}: {name}", inside.get(name), "one setting for all layers")
    if inside.get("mode") not in (None, "affine"):
        raise refuse("zg/model/unsupported", f"{inside.where}: mode", inside.get("mode"), "affine")
    group_size, bits = inside.size("group_size"), inside.size("bits")
    if group_size not in GROUP_SIZES or bits not in BITS:
        raise refuse(
            "zg/model/unsupported", inside.where, f"group_size {group_size}, bits {bits}", f"{GROUP_SIZES}, {BITS}"
        )
    return Affine(group_size=group_size, bits=bits)
