"""A KV cache at rest and on the way: SafeTensors bytes whose one metadata key, `zeitgeist`, is the descriptor (D1).

Tensors are `layer.<i>.k` and `layer.<i>.v`, i being the layer's index in the model, K before V, layer after layer; the
metadata is the descriptor as JSON with sorted keys. Law: digests cover content, not this file, and loading proves only
that the file agrees with itself; whether a receiver may use it is `convert/admit.py`. Nothing is copied on loading.
"""

import msgspec

from zeitgeist.convert.kv import KVCache, element_name, require_shapes
from zeitgeist.convert.safetensors_file import SafeTensorsFile, pack, read_tensors
from zeitgeist.core.descriptors.cache import CacheDescriptor
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.kv import ElementForm
from zeitgeist.core.limits import DESCRIPTOR_BYTES_MAX, HEADER_JSON_BYTES_MAX, LAYER_COUNT_MAX, TOKEN_COUNT_MAX

__all__ = ["METADATA_KEY", "descriptor_from_json", "descriptor_to_json", "dump", "load"]

METADATA_KEY = "zeitgeist"

DESCRIPTOR_JSON_BYTES_MAX = 4 * DESCRIPTOR_BYTES_MAX
"""As JSON, with names spelled out and bytes in base64, a descriptor takes less than four times its canonical bytes."""


def dump(cache: KVCache) -> bytearray:
    """The bytes of cache; equal caches give equal bytes. One copy of the arrays is made, padding rows included."""
    descriptor = cache.descriptor
    tensors = [
        (f"layer.{descriptor.layer_first + index}.{side}", stored_name(form), array)
        for index, (k, v) in enumerate(zip(cache.k, cache.v, strict=True))
        for side, form, array in (("k", descriptor.form.k, k), ("v", descriptor.form.v, v))
    ]
    return pack(tensors, {METADATA_KEY: descriptor_to_json(descriptor)})


def load(buffer: bytes | bytearray | memoryview) -> KVCache:
    """Views over buffer, which must not change while they live. Errors: `zg/safetensors/…`, `zg/cache/…`."""
    return from_file(read_tensors(buffer, HEADER_JSON_BYTES_MAX))


def from_file(file: SafeTensorsFile) -> KVCache:
    """The cache in an opened SafeTensors file: descriptor checked, every layer there, nothing else there."""
    if set(file.metadata) != {METADATA_KEY}:
        raise refuse("zg/cache/bad-metadata", "__metadata__", sorted(file.metadata), f"exactly one key, {METADATA_KEY}")
    descriptor = descriptor_from_json(file.metadata[METADATA_KEY])
    require_names(file, descriptor)
    arrays = {
        side: [require_tensor(file, descriptor, index, side) for index in range(descriptor.layer_count)]
        for side in ("k", "v")
    }
    cache = KVCache(descriptor, arrays["k"], arrays["v"])
    require_shapes(cache)
    return cache


def require_names(file: SafeTensorsFile, descriptor: CacheDescriptor) -> None:
    """Refuse missing and unknown tensors by name. The file's own count bounds the work, not the descriptor's claim."""
    found = set(file.names())
    count = min(descriptor.layer_count, len(found) + 1)
    wanted = [f"layer.{descriptor.layer_first + index}.{side}" for index in range(count) for side in ("k", "v")]
    for name in wanted:
        if name not in found:
            raise refuse("zg/cache/missing-layer", name, "no such tensor", f"{descriptor.layer_count} layers")
    for name in sorted(found - set(wanted)):
        raise refuse("zg/cache/unknown-tensor", name, "a tensor more", f"{descriptor.layer_count} layers of k and v")


def require_tensor(file: SafeTensorsFile, descriptor: CacheDescriptor, index: int, side: str):
    """The array of one layer and side, whose stored dtype must be the form's."""
    name = f"layer.{descriptor.layer_first + index}.{side}"
    dtype, array = file.tensor(name)
    wanted = stored_name(descriptor.form.k if side == "k" else descriptor.form.v)
    if dtype != wanted:
        raise refuse("zg/cache/dtype", f"{name}.dtype", dtype, wanted)
    return array


def stored_name(form: ElementForm) -> str:
    """The dtype name in the file: blocks travel as bytes."""
    return "u8" if form.quant else element_name(form)


def descriptor_to_json(descriptor: CacheDescriptor) -> str:
    """Sorted keys, no blanks; bytes of extensions in base64."""
    return msgspec.json.encode(descriptor, order="sorted").decode()


def descriptor_from_json(text: str) -> CacheDescriptor:
    """Refuse what is too long, has unknown or missing fields, or does not re-encode to itself (so no key twice)."""
    if len(text) > DESCRIPTOR_JSON_BYTES_MAX:
        raise refuse(
            "zg/cache/bad-metadata", METADATA_KEY, f"{len(text)} bytes", f"at most {DESCRIPTOR_JSON_BYTES_MAX}"
        )
    try:
        descriptor = msgspec.json.decode(text, type=CacheDescriptor)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError) as error:
        raise RemoteProtocolError("zg/cache/bad-metadata", str(error)[:160], METADATA_KEY) from error
    if descriptor_to_json(descriptor) != text:
        raise refuse("zg/cache/bad-metadata", METADATA_KEY, "not what re-encodes to itself", "sorted, no blanks")
    ranges = {
        "layer_first": (0, LAYER_COUNT_MAX),
        "layer_count": (1, LAYER_COUNT_MAX),
        "kv_head_count": (1, 1 << 16),
        "head_dim": (1, 1 << 16),
        "position_first": (0, TOKEN_COUNT_MAX),
        "position_count": (0, TOKEN_COUNT_MAX),
        "padded_count": (0, TOKEN_COUNT_MAX),
    }
    for field, (low, high) in ranges.items():
        if not low <= getattr(descriptor, field) <= high:
            raise refuse("zg/cache/bad-metadata", field, getattr(descriptor, field), f"{low} to {high}")
    return descriptor
