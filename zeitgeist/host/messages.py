"""What a parent asks its worker's engine and what it answers: the content beside `Call`, `Reply` and `Token` records.

Law: a request names everything it needs. Unknown methods and unknown fields do not decode. Arrays of at most
`INLINE_BYTES_MAX` bytes travel inside the content, larger ones as shared memory (`host/memory.py`). Everything is
canonical MessagePack; no pickle (I12). Numbers, order and refusals are the records' business (`core/wire/messages.py`).
"""

from typing import Any, Literal, TypeVar

import msgspec

from zeitgeist.core.errors import RemoteProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import Record, decode
from zeitgeist.core.ids import Real
from zeitgeist.sampling import GREEDY, SamplingParams

__all__ = [
    "Answered",
    "Array",
    "Asked",
    "CloseSession",
    "Decode",
    "Describe",
    "Detokenize",
    "ExportCache",
    "Fork",
    "ForwardRange",
    "Generate",
    "Generated",
    "GeneratedToken",
    "ImportCache",
    "Imported",
    "Load",
    "Metrics",
    "Open",
    "Prefill",
    "Probe",
    "Request",
    "Serves",
    "SessionInfo",
    "Shutdown",
    "TokenContent",
    "Tokenize",
    "Truncate",
    "read_answered",
    "read_asked",
    "read_value",
    "write_value",
]


class Array(Record, frozen=True, kw_only=True):
    """One array beside a call or a reply: C order, little-endian. length in bytes; xxh3 over the raw bytes.

    inline holds the bytes when they are few; otherwise a descriptor of shared memory travels with the frame.
    """

    dtype: Literal["f32", "u8"]
    shape: tuple[int, ...]
    length: int
    xxh3: int
    inline: bytes | None = None


class Describe(Record, frozen=True, kw_only=True, tag="describe"):
    """Answer: BackendDescriptor."""


class Load(Record, frozen=True, kw_only=True, tag="load"):
    """Open the model at path and load it. Answer: ModelDescriptor."""

    path: str


class Serves(Record, frozen=True, kw_only=True, tag="serves"):
    """Could this engine run the model at path? Answer: the reasons against, empty for yes."""

    path: str


class Tokenize(Record, frozen=True, kw_only=True, tag="tokenize"):
    """Answer: ids."""

    text: str


class Detokenize(Record, frozen=True, kw_only=True, tag="detokenize"):
    """Answer: bytes."""

    ids: tuple[int, ...]


class Open(Record, frozen=True, kw_only=True, tag="open"):
    """A new session over layers [first, stop); stop None means the last. Answer: session number."""

    first: int = 0
    stop: int | None = None


class Fork(Record, frozen=True, kw_only=True, tag="fork"):
    """Answer: the number of the copy."""

    session: int


class Truncate(Record, frozen=True, kw_only=True, tag="truncate"):
    """Keep the first position_count tokens. Answer: SessionInfo."""

    session: int
    position_count: int


class CloseSession(Record, frozen=True, kw_only=True, tag="close"):
    """Free a session. Answer: None."""

    session: int


class SessionInfo(Record, frozen=True, kw_only=True, tag="session"):
    """Asked: what a session holds. Answered: the same record, filled."""

    session: int
    first: int = 0
    stop: int = 0
    ids: tuple[int, ...] = ()


class Prefill(Record, frozen=True, kw_only=True, tag="prefill"):
    """Append ids. Answer: array f32 [rows, vocab]."""

    session: int
    ids: tuple[int, ...]
    chunk: int = 0
    rows: Literal["last", "all"] = "all"


class Decode(Record, frozen=True, kw_only=True, tag="decode"):
    """One token a session, one batch. Answer: array f32 [sessions, vocab]."""

    sessions: tuple[int, ...]
    ids: tuple[int, ...]


class ForwardRange(Record, frozen=True, kw_only=True, tag="forward_range"):
    """Run the session's stage on ids (first stage) or on the array of hidden rows.

    ids beside hidden rows say which tokens they are; without them the session's cache cannot be exported.
    Answer: array f32, hidden rows or logits.
    """

    session: int
    ids: tuple[int, ...] = ()


class ExportCache(Record, frozen=True, kw_only=True, tag="export_cache"):
    """Answer: array u8, a SafeTensors file whose metadata is the cache descriptor."""

    session: int


class ImportCache(Record, frozen=True, kw_only=True, tag="import_cache"):
    """Admit the SafeTensors bytes beside the call as the cache of ids, convert, import. Answer: Imported."""

    ids: tuple[int, ...]
    first: int = 0
    stop: int | None = None


class Generate(Record, frozen=True, kw_only=True, tag="generate"):
    """Continue ids with the canonical sampler. Answer: Generated."""

    ids: tuple[int, ...]
    token_count_max: int
    params: SamplingParams = GREEDY
    stop_ids: tuple[int, ...] = ()


class Metrics(Record, frozen=True, kw_only=True, tag="metrics"):
    """Answer: dict of integers."""


class Probe(Record, frozen=True, kw_only=True, tag="probe"):
    """Is this capability claimed? Answer: True; what is not claimed is refused."""

    capability: str


class Shutdown(Record, frozen=True, kw_only=True, tag="shutdown"):
    """Free the engine and leave. Answer: None."""


Request = (
    Describe
    | Load
    | Serves
    | Tokenize
    | Detokenize
    | Open
    | Fork
    | Truncate
    | CloseSession
    | SessionInfo
    | Prefill
    | Decode
    | ForwardRange
    | ExportCache
    | ImportCache
    | Generate
    | Metrics
    | Probe
    | Shutdown
)


class GeneratedToken(Record, frozen=True, kw_only=True):
    """One token: id, bytes, natural log of its probability under the raw logits, and of the alternatives asked for."""

    id: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Generated(Record, frozen=True, kw_only=True):
    """The answer of generate; finish says why it ended."""

    tokens: tuple[GeneratedToken, ...]
    finish: Literal["stop", "length"]


class Imported(Record, frozen=True, kw_only=True):
    """The answer of import_cache. report: JSON of the conversion's steps and price; "" when there was none."""

    session: int
    report: str


class TokenContent(Record, frozen=True, kw_only=True):
    """The content beside a `Token` record: id, the bytes it stands for, natural log of its probability under the raw
    logits, and (id, log probability) of the alternatives asked for, best first. It is digested, so reals are texts."""

    id: int
    data: bytes
    logprob: Real
    top: tuple[tuple[int, Real], ...] = ()


class Asked(Record, frozen=True, kw_only=True):
    """The content beside a `Call`."""

    request: Request
    array: Array | None = None


class Answered(Record, frozen=True, kw_only=True):
    """The content beside a `Reply`. value: MessagePack of the answer."""

    value: bytes = b"\xc0"
    array: Array | None = None


T = TypeVar("T", bound=Record)


def read_asked(content: bytes | memoryview) -> Asked:
    """Decode a request, refused (`zg/worker/bad-request`) when it is not canonical or its method is unknown."""
    return read(content, Asked, "zg/worker/bad-request")


def read_answered(content: bytes | memoryview) -> Answered:
    """Decode an answer, refused (`zg/worker/lied`) when it is not one."""
    return read(content, Answered, "zg/worker/lied")


def read(content: bytes | memoryview, kind: type[T], error: str) -> T:
    try:
        return decode(content, kind)
    except ZeitgeistError as refused:
        raise RemoteProtocolError(error, refused.detail, refused.field) from refused


def write_value(value: Any) -> bytes:
    """MessagePack of an answer: a record, or plain integers, bytes, texts and containers of them."""
    return msgspec.msgpack.encode(value, order="sorted")


def read_value(value: bytes, kind: Any) -> Any:
    """Read an answer as kind, refused (`zg/worker/lied`) when it is something else."""
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as reason:
        raise RemoteProtocolError("zg/worker/lied", str(reason), "value") from reason
