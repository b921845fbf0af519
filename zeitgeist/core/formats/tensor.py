"""The tensor envelope and the layout families (A6, C2): everything about a tensor but its bytes.

Law: a layout is declared, never read from a shape. `check_envelope` is asked before memory is taken for a tensor: each
number of the envelope must follow from the others, and its length must fit what the receiver allows. Integers only.
"""

from math import prod
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.digest import require_digest
from zeitgeist.core.formats.dtype import dtype_named
from zeitgeist.core.formats.quant import schema_named
from zeitgeist.core.ids import Digest
from zeitgeist.core.limits import (
    CHUNK_BYTES_MAX,
    CHUNK_COUNT_MAX,
    NAME_BYTES_MAX,
    TENSOR_BYTES_MAX,
    TENSOR_ELEMENTS_MAX,
    TENSOR_RANK_MAX,
)

__all__ = [
    "ROLES",
    "TENSOR_VERSION",
    "Blocked",
    "ColumnMajor",
    "ExtensionLayout",
    "Layout",
    "QuantisedTile",
    "Role",
    "RowMajor",
    "Sparse",
    "TensorEnvelope",
    "byte_length",
    "check_envelope",
    "chunk_count_for",
    "chunk_span",
]

TENSOR_VERSION: Final = 1

Role = Literal["weight", "activation", "hidden", "logits", "cache_k", "cache_v", "scales", "biases", "index"]
ROLES: Final[tuple[str, ...]] = Role.__args__  # the words of Role, for messages
Axes = Annotated[tuple[int, ...], Meta(max_length=TENSOR_RANK_MAX)]
"""Bounded where it is decoded: a stranger's million axes would take sixteen times their bytes."""


class RowMajor(Record, frozen=True, kw_only=True, tag="row_major"):
    """C order: the last axis runs fastest."""


class ColumnMajor(Record, frozen=True, kw_only=True, tag="column_major"):
    """Fortran order: the first axis runs fastest."""


class Blocked(Record, frozen=True, kw_only=True, tag="blocked"):
    """Cut into blocks of this shape, one number an axis; blocks in row-major order, each row-major inside.

    Edges are filled up to whole blocks with zero bits, which a reader drops and refuses when they are not zero.
    """

    block: Axes


class QuantisedTile(Record, frozen=True, kw_only=True, tag="quantised_tile"):
    """Blocks of the envelope's `quant` along the last axis. rows: how many rows stand interleaved, block by block:
    1 is plain ggml, 4 or 8 what llama.cpp repacks to. The second-last axis is a multiple of rows."""

    rows: int = 1


class Sparse(Record, frozen=True, kw_only=True, tag="sparse"):
    """Coordinates: index_dtype `[count, rank]` in row-major order of the elements, ascending, none twice, then values
    `[count]`. An element that is not listed has all bits zero, so that -0.0 and NaN are listed."""

    count: int
    index_dtype: Literal["u32", "u64"] = "u32"


class ExtensionLayout(Record, frozen=True, kw_only=True, tag="extension"):
    """A vendor's layout. Who does not know name refuses it; it can be carried and digested by anyone."""

    name: str


Layout: TypeAlias = RowMajor | ColumnMajor | Blocked | QuantisedTile | Sparse | ExtensionLayout


class TensorEnvelope(Record, frozen=True, kw_only=True):
    """What travels before the chunks of a tensor.

    tensor: id, unique in its stream; op: the operation it belongs to, "" for none; model: digest or ""; job, session:
    ids or "". shape in elements. dtype: of the elements, "" when quant names a schema. length: bytes of the content.
    checksum: BLAKE3 of the content. sequence: place of the tensor in its stream. chunk_bytes: of every chunk but the
    last; chunk_count: 0 for an empty tensor.
    """

    tensor_version: int = TENSOR_VERSION
    tensor: str
    op: str
    model: str
    job: str
    session: str
    role: Role
    shape: Axes
    dtype: str
    layout: Layout
    quant: str
    byte_order: Literal["little"]
    framing: Literal["chunks"]
    compression: Literal["none"]
    length: int
    checksum: Digest
    sequence: int
    chunk_bytes: int
    chunk_count: int


def check_envelope(envelope: TensorEnvelope, bytes_max: int) -> None:
    """Refuse an envelope that contradicts itself or exceeds bytes_max, the receiver's own limit, naming the field."""
    if envelope.tensor_version != TENSOR_VERSION:
        raise refuse(
            "zg/version/mismatch", "tensor_version", f"theirs {envelope.tensor_version}", f"ours {TENSOR_VERSION}"
        )
    for field in ("tensor", "op", "job", "session"):
        require_name(getattr(envelope, field), field, empty=field != "tensor")
    if envelope.model:
        require_digest(envelope.model, "model")
    require_digest(envelope.checksum, "checksum")
    require_within("sequence", envelope.sequence, 0, (1 << 64) - 1)
    require_shape(envelope.shape)
    wanted = byte_length(envelope)
    if wanted is not None and envelope.length != wanted:
        raise refuse("zg/tensor/bad-envelope", "length", envelope.length, f"{wanted} by shape, element and layout")
    if not 0 <= envelope.length <= min(bytes_max, TENSOR_BYTES_MAX):
        raise refuse("zg/tensor/too-large", "length", envelope.length, f"0 to {min(bytes_max, TENSOR_BYTES_MAX)}")
    if isinstance(envelope.layout, Sparse) and dense_length(envelope) > bytes_max:
        raise refuse("zg/tensor/too-large", "shape", envelope.shape, f"at most {bytes_max} bytes when it is dense")
    require_within("chunk_bytes", envelope.chunk_bytes, 1, CHUNK_BYTES_MAX)
    require_within("chunk_count", envelope.chunk_count, 0, CHUNK_COUNT_MAX)
    if envelope.chunk_count != chunk_count_for(envelope.length, envelope.chunk_bytes):
        raise refuse(
            "zg/tensor/bad-envelope",
            "chunk_count",
            envelope.chunk_count,
            chunk_count_for(envelope.length, envelope.chunk_bytes),
        )


def byte_length(envelope: TensorEnvelope) -> int | None:
    """Bytes that shape, element type, schema and layout demand; None for an extension, whose length only it knows."""
    layout, shape = envelope.layout, envelope.shape
    if bool(envelope.dtype) == bool(envelope.quant):
        raise refuse(
            "zg/tensor/bad-envelope", "dtype", f"dtype {envelope.dtype!r} and quant {envelope.quant!r}", "one of them"
        )
    if isinstance(layout, ExtensionLayout):
        require_name(layout.name, "layout.name", empty=False)
        return None
    if isinstance(layout, QuantisedTile):
        return tile_length(envelope.quant, shape, layout.rows)
    if envelope.quant:
        raise refuse("zg/tensor/bad-envelope", "layout", type(layout).__name__, "quantised_tile where quant is set")
    width, count = dtype_named(envelope.dtype).width, prod(shape)
    match layout:
        case RowMajor() | ColumnMajor():
            return count * width
        case Blocked():
            return blocked_count(layout.block, shape) * width
        case Sparse():
            require_within("layout.count", layout.count, 0, count)
            if max(shape, default=0) > 1 << dtype_named(layout.index_dtype).bits:
                raise refuse("zg/tensor/bad-envelope", "layout.index_dtype", layout.index_dtype, f"indices for {shape}")
            return layout.count * (width + len(shape) * dtype_named(layout.index_dtype).width)


def dense_length(envelope: TensorEnvelope) -> int:
    """Bytes of all elements, zero or not: what a sparse tensor of a few bytes grows to."""
    return prod(envelope.shape) * dtype_named(envelope.dtype).width


def tile_length(quant: str, shape: tuple[int, ...], rows: int) -> int:
    """Bytes of a quantised tile."""
    schema = schema_named(quant)
    if schema.packing != "interleaved":
        raise refuse(
            "zg/tensor/bad-envelope", "quant", quant, "an interleaved schema; planes travel as tensors of their own"
        )
    if not shape or shape[-1] % schema.block_elements:
        raise refuse(
            "zg/tensor/bad-envelope", "shape", shape, f"a last axis of whole blocks of {schema.block_elements}"
        )
    require_within("layout.rows", rows, 1, 64)
    if rows > 1 and (len(shape) < 2 or shape[-2] % rows):
        raise refuse("zg/tensor/bad-envelope", "layout.rows", rows, f"a divisor of the second-last axis of {shape}")
    return prod(shape) // schema.block_elements * schema.block_bytes


def blocked_count(block: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Elements with padding."""
    if len(block) != len(shape) or any(not 1 <= side <= TENSOR_ELEMENTS_MAX for side in block):
        raise refuse("zg/tensor/bad-envelope", "layout.block", block, f"{len(shape)} positive sides")
    count = prod(-(-size // side) * side for size, side in zip(shape, block, strict=True))
    if count > TENSOR_ELEMENTS_MAX:
        raise refuse(
            "zg/tensor/too-large", "layout.block", block, f"at most {TENSOR_ELEMENTS_MAX} elements with padding"
        )
    return count


def chunk_count_for(length: int, chunk_bytes: int) -> int:
    """How many chunks hold length bytes."""
    return -(-length // chunk_bytes)


def chunk_span(envelope: TensorEnvelope, index: int) -> tuple[int, int]:
    """(offset, length) of a chunk of a checked envelope."""
    offset = index * envelope.chunk_bytes
    return offset, min(envelope.chunk_bytes, envelope.length - offset)


def require_shape(shape: tuple[int, ...]) -> None:
    """Axes and elements within their limits. Sizes first, so that the product stays small."""
    if len(shape) > TENSOR_RANK_MAX:
        raise refuse("zg/tensor/bad-envelope", "shape", f"{len(shape)} axes", f"at most {TENSOR_RANK_MAX}")
    for size in shape:
        require_within("shape", size, 0, TENSOR_ELEMENTS_MAX)
    if prod(size or 1 for size in shape) > TENSOR_ELEMENTS_MAX:
        raise refuse("zg/tensor/too-large", "shape", shape, f"at most {TENSOR_ELEMENTS_MAX} elements")


def require_within(field: str, value: int, low: int, high: int) -> None:
    """Refuse a number outside its range."""
    if not low <= value <= high:
        raise refuse("zg/tensor/bad-envelope", field, value, f"{low} to {high}")


def require_name(text: str, field: str, *, empty: bool) -> None:
    """Refuse names that are too long, unprintable, or empty where one is needed."""
    if (not text and not empty) or len(text.encode("utf-8", "replace")) > NAME_BYTES_MAX or not text.isprintable():
        raise refuse("zg/tensor/bad-envelope", field, repr(text), f"1 to {NAME_BYTES_MAX} printable bytes")
