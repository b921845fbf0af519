"""The rows of the error registry that are about parties, not about bytes: same columns as `error_table.py`, same law.

Grouped by area, alphabetical inside a group. Ids are never reused; add, do not rename.
"""

from zeitgeist.core.error_table import Row

__all__ = ["PROTOCOL_ROWS"]

# One row is one thought: two lines read better here than six.
# fmt: off
AUTH: list[Row] = [
]

JOB: list[Row] = [
]

NEGOTIATE: list[Row] = [
]

NODE: list[Row] = [
    ("zg/node/not-allowed", "peer", True, "the peer holds none of the roles that this message needs",
     "give the peer the role in the trust bundle, or ask another node"),
    ("zg/node/unexpected-content", "peer", True, "bytes follow a record that carries none",
     "look at the peer's encoder"),
    ("zg/node/unknown-kind", "peer", True, "no record has this number", "both sides must run the same version"),
    ("zg/node/wrong-channel", "peer", True, "the record does not travel on this channel", "look at the peer's encoder"),
    ("zg/node/wrong-sequence", "peer", True, "a frame was lost, doubled or replayed on an ordered link",
     "connect again; someone may be meddling with the link"),
    ("zg/node/wrong-state", "peer", True, "the record is not allowed in this state of the session",
     "look at the peer's order of messages in the trace"),
]

PLAN: list[Row] = [
]

SESSION: list[Row] = [
]

SIM: list[Row] = [
]

TRACE: list[Row] = [
    ("zg/trace/bad-block", "peer", True, "a block of a recording does not hold what it says",
     "record again; the file was made by another tool or altered by hand"),
    ("zg/trace/bad-magic", "peer", True, "the file does not begin like a recording",
     "check the path; recordings end in .zgtrace"),
    ("zg/trace/broken-chain", "peer", True, "a block's hash does not follow from the blocks before it",
     "the file is damaged or was altered; use another copy"),
    ("zg/trace/different", "us", False, "a replay did something else than the recording says",
     "the first difference stands in the report; the cores differ, or a step is not deterministic"),
    ("zg/trace/other-core", "caller", True, "the recording was made by other sources of the core",
     "check out the commit that made it, or replay tolerantly"),
    ("zg/trace/other-version", "peer", True, "the recording has another format version",
     "read it with the release that wrote it"),
    ("zg/trace/too-large", "peer", True, "a block or an item is longer than the limit",
     "the file is damaged; look at docs/spec/limits.md"),
    ("zg/trace/truncated", "peer", True, "the recording ends before its end record",
     "the node was killed while it wrote: all whole blocks can be read; or the copy is not complete"),
    ("zg/trace/unknown-codec", "peer", True, "the blocks are compressed by a codec that this reader lacks",
     "install the package that the tool names"),
]

TRANSFER: list[Row] = [
]

TRANSPORT: list[Row] = [
]

PROTOCOL_ROWS: list[Row] = [
    *AUTH, *JOB, *NEGOTIATE, *NODE, *PLAN, *SESSION, *SIM, *TRACE, *TRANSFER, *TRANSPORT,
]
# fmt: on
