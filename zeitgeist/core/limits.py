"""Every bound of the formats and the wire, with its reason. What comes from outside meets these before memory is taken.

Law: a bound stands here or is derived here; relations between bounds are asserted when the module is imported, so that
a change that breaks one does not start. `docs/spec/limits.md` is generated from `LIMITS`.
"""

from typing import Final

import msgspec

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_BYTES_MAX",
    "CHUNK_COUNT_MAX",
    "CHUNK_RECORD_BYTES_MAX",
    "CONTROL_BYTES_MAX",
    "DESCRIPTOR_BYTES_MAX",
    "EXTENSION_BYTES_MAX",
    "EXTENSION_COUNT_MAX",
    "FRAME_BYTES_MAX",
    "FRAME_HEADER_BYTES",
    "HEADER_JSON_BYTES_MAX",
    "LAYER_COUNT_MAX",
    "LIMITS",
    "NAME_BYTES_MAX",
    "TENSOR_BYTES_MAX",
    "TENSOR_ELEMENTS_MAX",
    "TENSOR_RANK_MAX",
    "TOKEN_COUNT_MAX",
    "TRACE_BLOCK_BYTES",
    "TRACE_BLOCK_BYTES_MAX",
    "TRACE_ITEM_BYTES_MAX",
    "Limit",
]


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One bound: an inclusive maximum unless its reason says that it is a size."""

    name: str
    value: int
    unit: str
    reason: str


REGISTERED: list[Limit] = []


def limit(name: str, value: int, unit: str, reason: str) -> int:
    """Note a bound in the table and give its value."""
    REGISTERED.append(Limit(name=name, value=value, unit=unit, reason=reason))
    return value


KIB: Final = 1 << 10
MIB: Final = 1 << 20

FRAME_HEADER_BYTES: Final = limit(
    "frame_header_bytes",
    48,
    "bytes",
    "a size, the same for each frame: two numbers of 8 bytes, two checksums of 8, 16 for the rest; "
    "HTTP/2 has 9 without checksums, QUIC up to 20",
)
CONTROL_BYTES_MAX: Final = limit(
    "control_bytes_max",
    1 * MIB,
    "bytes",
    "131,072 token ids in MessagePack take 0.63 MiB; gRPC refuses above 4 MiB; more belongs in chunks",
)
DESCRIPTOR_BYTES_MAX: Final = limit(
    "descriptor_bytes_max",
    256 * KIB,
    "bytes",
    "the cache descriptor of 1,024 layers takes 75 KiB, and 16 extensions of 8 KiB another 128; etcd "
    "takes 1.5 MiB a request",
)
EXTENSION_BYTES_MAX: Final = limit(
    "extension_bytes_max",
    8 * KIB,
    "bytes",
    "a vendor's remark, not a payload; h11 and most servers bound a whole header block by 8 to 16 KiB",
)
EXTENSION_COUNT_MAX: Final = limit("extension_count_max", 16, "extensions", "TLS 1.3 clients send 10 to 20")
CHUNK_BYTES: Final = limit(
    "chunk_bytes",
    1 * MIB,
    "bytes",
    "a size: what we send; 8 ms at 1 Gbit/s, so that a repeated chunk is cheap, and past the knee of XXH3 and memcpy",
)
CHUNK_BYTES_MAX: Final = limit(
    "chunk_bytes_max",
    4 * MIB,
    "bytes",
    "what a peer may send in one chunk; gRPC's message bound; BitTorrent pieces are 16 KiB to 4 MiB",
)
CHUNK_RECORD_BYTES_MAX: Final = limit(
    "chunk_record_bytes_max",
    256,
    "bytes",
    "tensor id of 128 bytes, four integers of 9 and the field names fit; the rest of a bulk payload is raw",
)
CHUNK_COUNT_MAX: Final = limit(
    "chunk_count_max", 1 << 20, "chunks", "1 TiB in chunks of 1 MiB; an assembler keeps one bit a chunk, 128 KiB"
)
FRAME_BYTES_MAX: Final = limit(
    "frame_bytes_max",
    FRAME_HEADER_BYTES + CHUNK_RECORD_BYTES_MAX + CHUNK_BYTES_MAX,
    "bytes",
    "derived: a header and the largest bulk payload; a decoder never holds more than one",
)
TENSOR_BYTES_MAX: Final = limit(
    "tensor_bytes_max",
    64 << 30,
    "bytes",
    "one tensor; the largest public ones (a fused expert stack of 128 experts in f32) are near 20 GiB; a "
    "receiver may bound it lower",
)
TENSOR_ELEMENTS_MAX: Final = limit(
    "tensor_elements_max",
    1 << 36,
    "elements",
    "so that a product of dimensions is refused long before 64 bits; one element for a byte of the largest tensor",
)
TENSOR_RANK_MAX: Final = limit("tensor_rank_max", 8, "axes", "ggml has 4, ONNX models up to 6, NumPy 64; a cache has 5")
NAME_BYTES_MAX: Final = limit(
    "name_bytes_max", 128, "bytes", "GGUF tensor names are 64 at most, the longest Hugging Face name seen has 90"
)
LAYER_COUNT_MAX: Final = limit(
    "layer_count_max", 1024, "layers", "the deepest public decoder has 162; llama.cpp bounds it at 512"
)
TOKEN_COUNT_MAX: Final = limit(
    "token_count_max", 1 << 24, "tokens", "the longest context on offer is 10,000,000 tokens"
)
HEADER_JSON_BYTES_MAX: Final = limit(
    "header_json_bytes_max",
    2 * MIB,
    "bytes",
    "the SafeTensors header of a cache: 2 tensors of 110 bytes for each of 1,024 layers, and the "
    "descriptor as JSON; the format itself allows 100 MB",
)
TRACE_BLOCK_BYTES: Final = limit(
    "trace_block_bytes",
    256 * KIB,
    "bytes",
    "a size: a recording is compressed and chained in pieces of this; zstd gains little past 128 KiB, and a crash "
    "loses one at most",
)
TRACE_ITEM_BYTES_MAX: Final = limit(
    "trace_item_bytes_max",
    CHUNK_BYTES_MAX + CONTROL_BYTES_MAX,
    "bytes",
    "derived: one step's input with the largest record, or one frame's content",
)
TRACE_BLOCK_BYTES_MAX: Final = limit(
    "trace_block_bytes_max",
    TRACE_BLOCK_BYTES + TRACE_ITEM_BYTES_MAX + 64,
    "bytes",
    "derived: a block closes at the item that fills it",
)
LIMITS: Final = tuple(REGISTERED)

assert FRAME_BYTES_MAX > FRAME_HEADER_BYTES + CONTROL_BYTES_MAX, "a control payload must fit in a frame"
assert CONTROL_BYTES_MAX >= 2 * DESCRIPTOR_BYTES_MAX, (
    "an answer that quotes two descriptors must fit in a control payload"
)
assert DESCRIPTOR_BYTES_MAX >= LAYER_COUNT_MAX * 80 + EXTENSION_COUNT_MAX * EXTENSION_BYTES_MAX, (
    "the largest descriptor must fit"
)
assert HEADER_JSON_BYTES_MAX >= LAYER_COUNT_MAX * 2 * 110 + 4 * DESCRIPTOR_BYTES_MAX, (
    "a cache header must hold its descriptor"
)
assert CHUNK_BYTES <= CHUNK_BYTES_MAX, "we must not send what we would refuse"
assert CHUNK_COUNT_MAX * CHUNK_BYTES >= TENSOR_BYTES_MAX, "the largest tensor must be expressible in our chunks"
assert TENSOR_ELEMENTS_MAX >= TENSOR_BYTES_MAX, "every tensor of single bytes must be countable"
assert CHUNK_RECORD_BYTES_MAX >= NAME_BYTES_MAX + 4 * 9 + 64, "the record before a chunk must fit"
assert FRAME_BYTES_MAX < 1 << 32, "the length field has 32 bits"
