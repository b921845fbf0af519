"""A KV cache on its way: one tensor for each layer and side, in chunks, each chunk and each layer verified (D1).

The sender's order is layer after layer, K before V, so that a receiver can use layer 0 while layer 1 travels. Law: the
descriptor is admitted before any payload; a corrupt chunk is named and asked for again; a layer counts only when its
digest is the descriptor's; a cache that lacks anything is never given out.
"""

from collections.abc import Iterable, Iterator
from math import prod

import msgspec
import numpy as np

from zeitgeist.convert.admit import CacheExpectation, admit_descriptor, require_layer_finite
from zeitgeist.convert.kv import KVCache, raw_bytes, row_width
from zeitgeist.core.descriptors.cache import CacheDescriptor
from zeitgeist.core.errors import RemoteProtocolError, ZeitgeistError, refuse
from zeitgeist.core.formats.digest import content_digest, layer_digest
from zeitgeist.core.formats.kv import ElementForm
from zeitgeist.core.formats.tensor import QuantisedTile, RowMajor, TensorEnvelope
from zeitgeist.core.limits import CHUNK_BYTES
from zeitgeist.core.wire.chunks import Assembler, ChunkHead, chunks_of

__all__ = ["CacheReceiver", "CacheSender"]

SIDES = ("k", "v")


class CacheSender:
    """Reads a cache, which must not change meanwhile. Padding rows are not sent: `descriptor` says so."""

    def __init__(self, cache: KVCache, chunk_bytes: int = CHUNK_BYTES) -> None:
        count = cache.descriptor.position_count
        self.cache = cache
        self.chunk_bytes = chunk_bytes
        self.descriptor = msgspec.structs.replace(cache.descriptor, padded_count=count)

    def content(self, layer: int, side: str) -> memoryview:
        """Bytes of the valid rows of one side; layer counted from the first one held. A view where it can be."""
        return raw_bytes(self.cache.valid(side, layer))

    def envelope(self, layer: int, side: str) -> TensorEnvelope:
        """What travels before the chunks of one layer and side."""
        content = self.content(layer, side)
        descriptor, element = self.descriptor, element_of(self.descriptor, side)
        return TensorEnvelope(
            tensor=tensor_name(descriptor, layer, side),
            op="",
            model=descriptor.model,
            job="",
            session="",
            role=f"cache_{side}",  # type: ignore[arg-type]
            shape=(descriptor.position_count, descriptor.kv_head_count, descriptor.head_dim),
            dtype=element.dtype,
            layout=QuantisedTile() if element.quant else RowMajor(),
            quant=element.quant,
            byte_order="little",
            framing="chunks",
            compression="none",
            length=content.nbytes,
            checksum=content_digest(content),
            sequence=2 * layer + SIDES.index(side),
            chunk_bytes=self.chunk_bytes,
            chunk_count=-(-content.nbytes // self.chunk_bytes),
        )

    def chunks(
        self, layer: int, side: str, indices: Iterable[int] | None = None
    ) -> Iterator[tuple[ChunkHead, memoryview]]:
        """Chunks of one layer and side: all in order, or those asked for again."""
        yield from chunks_of(self.envelope(layer, side), self.content(layer, side), indices)


class CacheReceiver:
    """Takes a stream in any order. The descriptor is admitted here; `bytes_max` bounds the whole cache."""

    def __init__(self, descriptor: CacheDescriptor, expect: CacheExpectation, bytes_max: int) -> None:
        admit_descriptor(descriptor, expect)
        if descriptor.padded_count != descriptor.position_count:
            raise refuse(
                "zg/cache/padding", "padded_count", descriptor.padded_count, f"{descriptor.position_count}: none"
            )
        size = sum(side_bytes(descriptor, side) for side in SIDES) * descriptor.layer_count
        if size > bytes_max:
            raise refuse("zg/cache/too-large", "position_count", f"{size} bytes in all", f"at most {bytes_max}")
        self.descriptor = descriptor
        self.places = {
            tensor_name(descriptor, layer, side): (layer, side)
            for layer in range(descriptor.layer_count)
            for side in SIDES
        }
        self.assemblers: dict[str, Assembler] = {}
        self.layers: dict[int, tuple[memoryview, memoryview]] = {}

    def announce(self, envelope: TensorEnvelope) -> None:
        """Take an envelope, which must be exactly the one that the descriptor implies. Twice the same is harmless."""
        if envelope.tensor not in self.places:
            raise refuse(
                "zg/cache/unknown-tensor", envelope.tensor, "a tensor more", f"{self.descriptor.layer_count} layers"
            )
        _, side = self.places[envelope.tensor]
        element = element_of(self.descriptor, side)
        shape = (self.descriptor.position_count, self.descriptor.kv_head_count, self.descriptor.head_dim)
        wanted = {
            "shape": shape,
            "dtype": element.dtype,
            "quant": element.quant,
            "model": self.descriptor.model,
            "role": f"cache_{side}",
            "layout": QuantisedTile() if element.quant else RowMajor(),
            "length": side_bytes(self.descriptor, side),
        }
        for field, value in wanted.items():
            if getattr(envelope, field) != value:
                raise refuse("zg/cache/shape", f"{envelope.tensor}.{field}", getattr(envelope, field), value)
        known = self.assemblers.get(envelope.tensor)
        if known is None:
            self.assemblers[envelope.tensor] = Assembler(envelope, side_bytes(self.descriptor, side))
        elif known.envelope != envelope:
            raise refuse("zg/cache/bad-chunk", envelope.tensor, "a second envelope that differs", "the first one")

    def accept(self, head: ChunkHead, raw: bytes | memoryview) -> None:
        """Take one chunk; a corrupt or misplaced one is refused with tensor and index, and stays in `missing`."""
        assembler = self.assemblers.get(head.tensor)
        if assembler is None:
            raise refuse("zg/cache/bad-chunk", head.tensor, "a chunk before its envelope", "the envelope first")
        try:
            assembler.accept(head, raw)
        except ZeitgeistError as error:
            raise RemoteProtocolError(error.id, error.detail, f"{head.tensor} {error.field}") from error
        self.close_layer(self.places[head.tensor][0])

    def close_layer(self, layer: int) -> None:
        """When both sides are whole: verify the layer's digest; a bad layer is forgotten and asked for again."""
        names = [tensor_name(self.descriptor, layer, side) for side in SIDES]
        sides = [self.assemblers.get(name) for name in names]
        if layer in self.layers or not all(side is not None and side.complete for side in sides):
            return
        try:
            k, v = (side.finish() for side in sides if side is not None)
            got, wanted = layer_digest(k, v), self.descriptor.layers[layer]
            if got != wanted:
                raise refuse("zg/cache/layer-digest", f"layers.{self.descriptor.layer_first + layer}", got, wanted)
        except ZeitgeistError:
            for name in names:
                del self.assemblers[name]
            raise
        self.layers[layer] = (k, v)

    def missing(self) -> dict[str, tuple[int, ...] | None]:
        """Tensor → chunk indices wanted, corrupt ones first; None where the envelope has not come. Empty: all here."""
        wanted: dict[str, tuple[int, ...] | None] = {}
        for name, (layer, _) in self.places.items():
            assembler = self.assemblers.get(name)
            if layer not in self.layers and (assembler is None or not assembler.complete):
                wanted[name] = assembler.missing() if assembler else None
        return wanted

    def layer(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """(K, V) of one verified layer, counted from the first one held; refused while anything of it is missing."""
        if layer not in self.layers:
            name = tensor_name(self.descriptor, layer, "k").removesuffix(".k")
            raise refuse(
                "zg/cache/incomplete", name, f"missing {sorted(self.missing())[:4]}", "all chunks of the layer"
            )
        k, v = (self.array(content, side) for content, side in zip(self.layers[layer], SIDES, strict=True))
        return k, v

    def array(self, content: memoryview, side: str) -> np.ndarray:
        """A read-only view `[position, kv_head, width]` of one side's bytes."""
        dtype, width = row_width(element_of(self.descriptor, side), self.descriptor.head_dim)
        shape = (self.descriptor.position_count, self.descriptor.kv_head_count, width)
        return np.frombuffer(content, dtype).reshape(shape)

    def finish(self) -> KVCache:
        """The whole cache, every number finite; a half-written one is refused by the first layer that is missing."""
        arrays = [self.layer(layer) for layer in range(self.descriptor.layer_count)]
        cache = KVCache(self.descriptor, [k for k, _ in arrays], [v for _, v in arrays])
        for layer in range(self.descriptor.layer_count):
            require_layer_finite(cache, layer)
        return cache


def element_of(descriptor: CacheDescriptor, side: str) -> ElementForm:
    """The element form of K or of V."""
    return descriptor.form.k if side == "k" else descriptor.form.v


def tensor_name(descriptor: CacheDescriptor, layer: int, side: str) -> str:
    """`layer.<i>.k`, i being the layer's index in the model, as in the file."""
    return f"layer.{descriptor.layer_first + layer}.{side}"


def side_bytes(descriptor: CacheDescriptor, side: str) -> int:
    """Bytes of the valid rows of one layer's K or V."""
    dtype, width = row_width(element_of(descriptor, side), descriptor.head_dim)
    return prod((descriptor.position_count, descriptor.kv_head_count, width)) * dtype.itemsize
