"""A GGUF of some layers only: blocks [first, stop) renumbered from 0, everything else as in the source (I4).

Embedding, final norm and head stay, because llama.cpp does not load a model without them; a stage that is not the last
is read before the norm. Tensors are copied as they are stored, quantised blocks included.
"""

import re
from pathlib import Path
from typing import Any

__all__ = ["write_slice"]

BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")


def write_slice(source: Path, target: Path, first: int, stop: int) -> None:
    """Write layers [first, stop) of `source`, a GGUF that our reader has accepted, to `target`."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = str(field_value(reader, "general.architecture"))
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        value = stop - first if field.name == f"{architecture}.block_count" else field.contents()
        writer.add_key_value(field.name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    kept = [(name, tensor) for tensor in reader.tensors if (name := new_name(tensor.name, first, stop))]
    for name, tensor in kept:
        writer.add_tensor_info(name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in kept:
        writer.write_tensor_data(tensor.data)
    writer.close()


def new_name(name: str, first: int, stop: int) -> str:
    """Name in the slice, "" for a layer outside it."""
    found = BLOCK.match(name)
    if not found:
        return name
    layer = int(found[1])
    return f"blk.{layer - first}.{found[2]}" if first <= layer < stop else ""


def field_value(reader: Any, name: str) -> Any:
    """Value of a metadata key; the bundle has made sure that it is there."""
    return reader.fields[name].contents()
