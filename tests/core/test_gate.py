"""The gate: each row of the registry against each trust level, state, lane, channel and order (H2)."""

from typing import Any

import pytest

from fixtures.golden_engines import HEAD
from fixtures.golden_messages import MESSAGES
from zeitgeist.core.descriptors.trust import TRUST_LEVELS, TrustLevel
from zeitgeist.core.effects import ChunkArrived, FrameArrived, PayloadRef
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.gate import LANES, Admitted, Gate
from zeitgeist.core.ids import Handle, LinkId, NodeId
from zeitgeist.core.outbox import Standing
from zeitgeist.core.wire.messages import Reason
from zeitgeist.core.wire.registry import CHUNK_KIND, REGISTRY, Row, SessionState

pytestmark = pytest.mark.requirement("H2")

SAMPLES = {type(record): record for record in (*MESSAGES, HEAD)}
ROWS = [pytest.param(row, id=row.record.__name__) for row in REGISTRY.values()]
MACHINES = ("session", "transfer", "job", "call")
STATES: tuple[SessionState, ...] = (
    "greeting",
    "challenged",
    "proving",
    "describing",
    "modelling",
    "assessing",
    "finalizing",
    "ready",
    "draining",
    "closed",
)
CONTENT = PayloadRef(handle=Handle(1), length=3, digest=content_digest(b"abc"))
LINK = LinkId(1)


def frame_of(row: Row, **changed: Any) -> FrameArrived:
    """A sound frame of this row, the first of its link."""
    fields: dict[str, Any] = {
        "link": LINK,
        "channel": int(row.channels[0]),
        "kind": row.kind,
        "flags": 0,
        "stream": 0,
        "sequence": 0,
        "record": encode(SAMPLES[row.record]),
        "content": CONTENT if row.content else None,
    }
    return FrameArrived(**(fields | changed))


def chunk(sequence: int = 0, channel: int = 2) -> ChunkArrived:
    return ChunkArrived(link=LINK, channel=channel, stream=1, sequence=sequence, index=0, length=1, verdict="accepted")


def standing_of(row: Row, **changed: Any) -> Standing:
    """A link on which this row may be said."""
    lane = "local" if row.kind == CHUNK_KIND else LANES[row.machine][0]
    state = row.states[0] if row.states else "ready"
    return Standing(**({"peer": NodeId("p"), "state": state, "trust": TRUST_LEVELS, "lane": lane} | changed))


def verdict(row: Row, standing: Standing, **changed: Any) -> str:
    """`admitted`, or the refusal's id without its prefix, on a fresh gate."""
    gate = Gate(MACHINES)
    if row.kind == CHUNK_KIND and not changed:
        refused = gate.chunk(chunk(), standing)
        return "admitted" if refused is None else refused.id.removeprefix("zg/")
    found = gate.frame(frame_of(row, **changed), standing)
    return found.id.removeprefix("zg/") if isinstance(found, Reason) else "admitted"


def test_every_row_has_a_sample() -> None:
    """The tables below leave no record out."""
    assert set(SAMPLES) >= {row.record for row in REGISTRY.values()}


@pytest.mark.parametrize("level", [*TRUST_LEVELS, None])
@pytest.mark.parametrize("row", ROWS)
def test_a_peer_without_the_row_s_trust_is_refused(row: Row, level: TrustLevel | None) -> None:
    """Every row × every level alone, and none: admitted exactly where the row names the level or nobody's trust."""
    held = (level,) if level else ()
    wanted = "admitted" if not row.trust or level in row.trust else "node/not-allowed"
    assert verdict(row, standing_of(row, trust=held)) == wanted


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("row", ROWS)
def test_a_record_out_of_its_state_is_refused(row: Row, state: SessionState) -> None:
    """Every row × every state of a link."""
    allowed = state in row.states if row.states else state != "closed"
    assert verdict(row, standing_of(row, state=state)) == ("admitted" if allowed else "node/wrong-state")


@pytest.mark.parametrize("lane", ["control", "bulk", "local"])
@pytest.mark.parametrize("row", ROWS)
def test_a_record_travels_on_its_lanes_only(row: Row, lane: str) -> None:
    """Chunks on bulk and local, calls on local, jobs and transfers on control and local, a session's words on all."""
    allowed = lane != "control" if row.kind == CHUNK_KIND else lane in LANES[row.machine]
    assert verdict(row, standing_of(row, lane=lane)) == ("admitted" if allowed else "node/wrong-channel")


@pytest.mark.parametrize("channel", range(7))
@pytest.mark.parametrize("row", ROWS)
def test_a_record_travels_on_its_channel_only(row: Row, channel: int) -> None:
    """Every row × every channel; a chunk that comes as a record is on no right channel at all."""
    allowed = channel in row.channels and row.kind != CHUNK_KIND
    wanted = "admitted" if allowed else "node/wrong-channel"
    assert verdict(row, standing_of(row), channel=channel) == wanted


@pytest.mark.parametrize("row", ROWS)
def test_content_only_where_the_row_says_so(row: Row) -> None:
    """Bytes behind a record that carries none."""
    if row.kind != CHUNK_KIND:
        wanted = "admitted" if row.content else "node/unexpected-content"
        assert verdict(row, standing_of(row), content=CONTENT) == wanted


@pytest.mark.parametrize("row", ROWS)
def test_a_record_that_does_not_decode_is_refused_by_the_codec_s_name(row: Row) -> None:
    """Cut, foreign, and not canonical; nothing else ever leaves."""
    if row.kind == CHUNK_KIND:
        return
    raw = encode(SAMPLES[row.record])
    assert verdict(row, standing_of(row), record=raw[:-1]) == "wire/bad-record"
    assert verdict(row, standing_of(row), record=b"\x81\xa3zzz\x01") == "wire/bad-record"
    longer = b"\xde\x00" + bytes([raw[0] & 0x0F]) + raw[1:]
    if raw[0] & 0xF0 == 0x80:
        assert verdict(row, standing_of(row), record=longer) == "wire/not-canonical"


@pytest.mark.parametrize("kind", [0, 0x0009, 0x7FFF, 0xFFFF])
def test_an_unknown_kind_is_refused_by_number(kind: int) -> None:
    """Numbers that no row has; and rows of a machine that this party does not have."""
    row = next(iter(REGISTRY.values()))
    assert verdict(row, standing_of(row), kind=kind) == "node/unknown-kind"


def test_a_node_does_not_hear_a_worker_s_calls() -> None:
    """Rows of a machine that a party lacks are unknown to it."""
    gate = Gate(("session", "transfer", "job"))
    for row in REGISTRY.values():
        found = gate.frame(frame_of(row, sequence=gate.next.get(LINK, 0)), standing_of(row))
        assert (isinstance(found, Reason) and found.id == "zg/node/unknown-kind") == (row.machine == "call")


@pytest.mark.parametrize("sequence", [1, 5, 1 << 63])
def test_a_frame_that_is_not_the_next_is_refused(sequence: int) -> None:
    """Lost, doubled or replayed; each link counts by itself, and a refused frame counts too (H3)."""
    row = REGISTRY[0x0007]
    gate, standing = Gate(MACHINES), standing_of(row)
    assert isinstance(gate.frame(frame_of(row), standing), Admitted)
    assert isinstance(gate.frame(frame_of(row, link=LinkId(2)), standing), Admitted)
    assert isinstance(gate.frame(frame_of(row, sequence=1, kind=0xFFFF), standing), Reason)
    assert isinstance(gate.frame(frame_of(row, sequence=2), standing), Admitted)
    found = gate.frame(frame_of(row, sequence=2 + sequence + (sequence == 1)), standing)
    assert isinstance(found, Reason) and found.id == "zg/node/wrong-sequence"
    assert isinstance(Gate(MACHINES).frame(frame_of(row, sequence=sequence), standing), Reason)


def test_chunks_and_records_of_a_link_count_together() -> None:
    """One sequence a link, whatever travels; a link that is gone begins anew."""
    gate, row = Gate(MACHINES), REGISTRY[0x0007]
    standing = standing_of(row, lane="local")
    assert isinstance(gate.frame(frame_of(row), standing), Admitted)
    assert gate.chunk(chunk(1), standing) is None
    repeated = gate.chunk(chunk(1), standing)
    assert repeated is not None and repeated.id == "zg/node/wrong-sequence"
    gate.forget(LINK)
    assert gate.chunk(chunk(0), standing) is None


def test_nothing_is_decoded_for_a_peer_that_may_not_say_it() -> None:
    """Broken bytes of a peer without trust: refused for the trust."""
    row = REGISTRY[0x0033]
    assert verdict(row, standing_of(row, trust=()), record=b"\xff") == "node/not-allowed"
