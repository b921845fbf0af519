"""Caches that lie, are broken, or belong to somebody else: real SafeTensors bytes made from an honest export (V, F).

Law: every vector differs from the honest cache in the one thing it is named after. Where a digest would give the lie
away before the field under test is looked at, the digest is made to match.
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert import kv_file
from zeitgeist.convert.kv import KVCache, layer_digests
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.digest import content_digest, tokens_digest

__all__ = [
    "Vector",
    "edited",
    "field_vectors",
    "file_vectors",
    "flipped",
    "number_vectors",
    "padded",
    "poisoned",
    "rewritten",
    "with_zeroed_head",
]

Bytes = bytes | bytearray | memoryview
FOREIGN = str(content_digest(b"a model that nobody has"))
LENGTH = 8
"""Bytes of the header's length in front of a SafeTensors file."""


@dataclass(frozen=True)
class Vector:
    """name; data: the file; id: of the refusal; field: that it must name, or "" for any (never none)."""

    name: str
    data: bytes
    id: str
    field: str = ""


# ---- one field of the descriptor


def split(data: Bytes) -> tuple[dict[str, Any], bytes]:
    """(header, data behind it) of a SafeTensors file."""
    length = int.from_bytes(data[:LENGTH], "little")
    return json.loads(bytes(data[LENGTH : LENGTH + length])), bytes(data[LENGTH + length :])


def joined(header: dict[str, Any], payload: bytes) -> bytes:
    """The file of a header and what stands behind it."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH)
    return struct.pack("<Q", len(text)) + text + payload


def edited(data: Bytes, changes: dict[str, Any]) -> bytes:
    """The file with leaves of its descriptor replaced: `{"rope.theta": "1.0"}`. Nothing else changes."""
    header, payload = split(data)
    descriptor = json.loads(header["__metadata__"]["zeitgeist"])
    for path, value in changes.items():
        inner = descriptor
        *parents, leaf = path.split(".")
        for name in parents:
            inner = inner[name]
        if leaf not in inner:
            raise LocalProtocolError("zg/certify/usage", f"a descriptor has no field {path}", path)
        inner[leaf] = value
    header["__metadata__"]["zeitgeist"] = json.dumps(descriptor, sort_keys=True, separators=(",", ":"))
    return joined(header, payload)


def field_vectors(data: Bytes, ids: Sequence[int]) -> list[Vector]:
    """One wrong value for each field of a cache of ids; the payload is as it was."""
    descriptor = kv_file.load(data).descriptor
    other = [ids[0] + 1 if ids[0] == 0 else ids[0] - 1, *ids[1:]]
    count, layers = descriptor.position_count, descriptor.layer_count
    rows: list[tuple[str, dict[str, Any], str, str]] = [
        ("wrong token digest", {"tokens": str(tokens_digest(other))}, "zg/cache/tokens", "tokens"),
        ("foreign model", {"model": FOREIGN}, "zg/cache/model", "model"),
        ("other tokenizer", {"tokenizer": FOREIGN}, "zg/cache/tokenizer", "tokenizer"),
        ("an adapter", {"adapter": FOREIGN}, "zg/cache/adapter", "adapter"),
        ("no pairing", {"form.pairing": "none"}, "zg/cache/pairing", "form.pairing"),
        ("unknown pairing", {"form.pairing": "spiral"}, "zg/cache/bad-metadata", ""),
        ("keys before rotation", {"form.keys_rotated": False}, "zg/cache/rotation-state", "form.keys_rotated"),
        ("missing heads", {"kv_head_count": descriptor.kv_head_count + 1}, "zg/cache/shape", ""),
        ("no heads", {"kv_head_count": 0}, "zg/cache/bad-metadata", "kv_head_count"),
        ("wrong head width", {"head_dim": descriptor.head_dim * 2}, "zg/cache/shape", ""),
        ("unknown dtype of K", {"form.k.dtype": "f64", "form.k.quant": ""}, "zg/cache/dtype", ""),
        (
            "unknown blocks in V",
            {"form.v.quant": "ggml_q2_k", "form.v.dtype": ""},
            "zg/cache/quant" if descriptor.form.v.quant else "zg/cache/dtype",
            "",
        ),
        (
            "unknown blocks in K",
            {"form.k.quant": "ggml_q2_k", "form.k.dtype": ""},
            "zg/cache/quant" if descriptor.form.k.quant else "zg/cache/dtype",
            "",
        ),
        (
            "another dtype of V",
            {"form.v.dtype": "f16" if descriptor.form.v.dtype == "bf16" else "bf16", "form.v.quant": ""},
            "zg/cache/dtype",
            "",
        ),
        ("a rotation of K that is no power of two", {"form.k.hadamard": 3}, "zg/cache/hadamard", "form.k.hadamard"),
        ("a rotation of V that is no power of two", {"form.v.hadamard": 5}, "zg/cache/hadamard", "form.v.hadamard"),
        ("shifted position", {"position_first": 1}, "zg/cache/position", "position_first"),
        ("fewer positions", {"position_count": count - 1}, "zg/cache/position", "position_count"),
        ("more rows than there are", {"padded_count": count + 8}, "zg/cache/shape", ""),
        ("padded rows read as valid", {"position_count": count + 8}, "zg/cache/position", "position_count"),
        ("window", {"window": 4096}, "zg/cache/window", "window"),
        ("sink", {"sink": 4}, "zg/cache/window", "sink"),
        ("latent", {"latent": "mla"}, "zg/cache/latent", "latent"),
        ("hybrid", {"hybrid": "mamba2"}, "zg/cache/hybrid", "hybrid"),
        ("rope theta", {"rope.theta": "12345.0"}, "zg/cache/rope", "rope.theta"),
        ("rope scaling", {"rope.scaling": "yarn"}, "zg/cache/rope", "rope.scaling"),
        ("rope factors", {"rope.factors": FOREIGN}, "zg/cache/rope", "rope.factors"),
        ("rope offset", {"rope.offset": 1}, "zg/cache/rope", "rope.offset"),
        ("layers of another range", {"layer_first": 1}, "zg/cache/missing-layer", ""),
        ("fewer layers", {"layer_count": layers - 1}, "zg/cache/unknown-tensor", ""),
        ("a layer more", {"layer_count": layers + 1}, "zg/cache/missing-layer", ""),
        ("2^40 layers", {"layer_count": 1 << 40}, "zg/cache/bad-metadata", "layer_count"),
        ("digests of other layers", {"layers": [FOREIGN] * layers}, "zg/cache/layer-digest", "layers"),
        ("too few digests", {"layers": []}, "zg/cache/layer-digest", "layers"),
        (
            "unknown critical extension",
            {"extensions": {"x/y": {"critical": True, "body": ""}}},
            "zg/cache/extension",
            "extensions.x/y",
        ),
        ("version of the descriptor", {"cache_version": 99}, "zg/cache/format-version", "cache_version"),
        ("version of the format", {"format_version": 99}, "zg/cache/format-version", "format_version"),
        ("a maker's name with controls", {"made_by": "\u001b[31mred"}, "zg/cache/made-by", "made_by"),
        ("negative count", {"position_count": -1}, "zg/cache/bad-metadata", "position_count"),
    ]
    return [Vector(name, edited(data, changes), id, field) for name, changes, id, field in rows]


# ---- the numbers


def rewritten(cache: KVCache, change: Callable[[list[NDArray[Any]], list[NDArray[Any]]], None], honest: bool) -> bytes:
    """The cache after change(k, v) on writable copies. honest: layer digests are made to match the new numbers."""
    k, v = [array.copy() for array in cache.k], [array.copy() for array in cache.v]
    change(k, v)
    descriptor = cache.descriptor
    if honest:
        layers = layer_digests(k, v, descriptor.position_count)
        descriptor = msgspec.structs.replace(
            descriptor, layers=layers, padded_count=len(k[0]), kv_head_count=k[0].shape[1]
        )
    return bytes(kv_file.dump(KVCache(descriptor, k, v)))


def number_vectors(cache: KVCache) -> list[Vector]:
    """Numbers that are not those described (digests left), and numbers that no engine may see (digests match)."""
    middle = cache.descriptor.layer_count // 2
    place = f"layers.{cache.descriptor.layer_first + middle}"
    name = f"layer.{cache.descriptor.layer_first + middle}"

    def damage(what: str, change: Callable[[list[NDArray[Any]], list[NDArray[Any]]], None]) -> Vector:
        return Vector(what, rewritten(cache, change, honest=False), "zg/cache/layer-digest", place)

    def swap_heads(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        k[middle][:] = k[middle][:, ::-1].copy() if k[middle].shape[1] > 1 else k[middle][::-1].copy()

    def swap_sides(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        k[middle], v[middle] = v[middle], k[middle]

    def shift(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        k[middle][:] = np.roll(k[middle], 1, axis=0)

    def zero_head(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        k[middle][-1, 0] = 0

    def zero_tail(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        v[middle][len(v[middle]) // 2 :] = 0

    vectors = [
        damage("heads swapped", swap_heads),
        damage("positions shifted", shift),
        damage("one head of one token zeroed", zero_head),
        damage("tail of zeros", zero_tail),
    ]
    if cache.descriptor.form.k == cache.descriptor.form.v:
        vectors.append(damage("K in the place of V", swap_sides))
    fewer = rewritten(cache, drop_last_head, honest=True)
    vectors.append(
        Vector("a head less", fewer, "zg/cache/kv-heads" if cache.k[0].shape[1] > 1 else "zg/cache/bad-metadata")
    )
    for side in ("k", "v"):
        for what in (np.nan, np.inf, -np.inf):
            vectors.append(
                Vector(f"{what} in {side}", spoiled(cache, side, middle, what), "zg/cache/not-finite", f"{name}.{side}")
            )
    return vectors


def drop_last_head(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
    """All but the last key-value head; of one head, nothing is left."""
    for arrays in (k, v):
        arrays[:] = [np.ascontiguousarray(array[:, :-1]) for array in arrays]


def spoiled(cache: KVCache, side: str, layer: int, value: float) -> bytes:
    """One number, or one scale of a block, that is not finite, with matching digests."""
    form = cache.descriptor.form.k if side == "k" else cache.descriptor.form.v

    def change(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        array = (k if side == "k" else v)[layer]
        row = array[len(array) // 2, -1]
        if form.quant:
            row[:2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
        elif form.dtype == "bf16":
            row[0] = np.float32(value).view(np.uint32) >> np.uint32(16)
        else:
            row[0] = value

    return rewritten(cache, change, honest=True)


def poisoned(cache: KVCache) -> bytes:
    """A twin with other values: V of head 0 moved on by half of the tokens in every layer, digests made to match.

    Rows are moved whole, so that it works in every form. An engine that really reads the cache must change its output.
    """

    def change(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        for array in v:
            array[:, 0] = np.roll(array[:, 0], len(array) // 2, axis=0)

    return rewritten(cache, change, honest=True)


def with_zeroed_head(cache: KVCache, position: int) -> bytes:
    """Head 0 of one token is zero in K of every layer, digests made to match: what no admission can know."""

    def change(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        for array in k:
            array[position, 0] = 0

    return rewritten(cache, change, honest=True)


def padded(cache: KVCache, rows: int) -> bytes:
    """The same cache with rows of padding that hold NaN where the form can: valid, and no row of it may be read."""

    def change(k: list[NDArray[Any]], v: list[NDArray[Any]]) -> None:
        for arrays in (k, v):
            for i, array in enumerate(arrays):
                filler = np.full((rows, *array.shape[1:]), 0, array.dtype)
                filler.view(np.uint8)[:] = 0xFF
                arrays[i] = np.concatenate([array, filler])

    return rewritten(cache, change, honest=True)


# ---- the file


def flipped(data: Bytes, bit: int) -> bytes:
    """The file with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def file_vectors(data: Bytes) -> list[Vector]:
    """Files that are cut, too long, half written, or whose header says what cannot be."""
    whole = bytes(data)
    header_stop = LENGTH + int.from_bytes(whole[:LENGTH], "little")
    header, payload = split(whole)
    text = whole[LENGTH:header_stop]
    twice = text.replace(b'{"__metadata__"', b'{"__metadata__":{"zeitgeist":"{}"},"__metadata__"', 1)
    inside = dict(
        header,
        __metadata__={
            "zeitgeist": header["__metadata__"]["zeitgeist"].replace('"adapter":""', '"adapter":"","adapter":""', 1)
        },
    )
    first = next(name for name in sorted(header) if name != "__metadata__")
    huge = dict(header, **{first: dict(header[first], shape=[1 << 40, 1 << 40, 1])})
    overlapping = dict(header, **{first: dict(header[first], data_offsets=[8, header[first]["data_offsets"][1] + 8])})
    middle = header_stop + len(payload) // 2
    return [
        Vector("empty file", b"", "zg/safetensors/truncated"),
        Vector("half of the length", whole[:4], "zg/safetensors/truncated"),
        Vector("cut in the header", whole[: LENGTH + 100], "zg/safetensors/truncated"),
        Vector("cut after the header", whole[:header_stop], "zg/safetensors/truncated"),
        Vector("cut in the payload", whole[:middle], "zg/safetensors/truncated"),
        Vector("last byte lost", whole[:-1], "zg/safetensors/truncated"),
        Vector("a byte more", whole + b"\0", "zg/safetensors/trailing-bytes"),
        Vector("another cache behind it", whole + whole, "zg/safetensors/trailing-bytes"),
        Vector("half written, zeros follow", whole[:middle] + bytes(len(whole) - middle), "zg/cache/layer-digest"),
        Vector("nothing but zeros", bytes(len(whole)), "zg/safetensors/bad-header"),
        Vector("header of 2^63 bytes", struct.pack("<Q", 1 << 63) + whole[LENGTH:], "zg/safetensors/header-too-long"),
        Vector("shape of 2^80 elements", joined(huge, payload), "zg/safetensors/bad-size"),
        Vector("overlapping tensors", joined(overlapping, payload), "zg/safetensors/bad-offsets"),
        Vector("metadata twice", struct.pack("<Q", len(twice)) + twice + payload, "zg/safetensors/bad-header"),
        Vector("a field of the descriptor twice", joined(inside, payload), "zg/cache/bad-metadata"),
        Vector(
            "no descriptor",
            joined({k: v for k, v in header.items() if k != "__metadata__"}, payload),
            "zg/cache/bad-metadata",
        ),
        Vector(
            "another key beside the descriptor",
            joined(dict(header, __metadata__={**header["__metadata__"], "format": "pt"}), payload),
            "zg/cache/bad-metadata",
        ),
        Vector(
            "a tensor renamed",
            joined({("layer.0.q" if k == first else k): v for k, v in header.items()}, payload),
            "zg/cache/missing-layer",
        ),
    ]
