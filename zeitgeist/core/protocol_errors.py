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
]

TRANSFER: list[Row] = [
]

TRANSPORT: list[Row] = [
]

PROTOCOL_ROWS: list[Row] = [
    *AUTH, *JOB, *NEGOTIATE, *NODE, *PLAN, *SESSION, *SIM, *TRACE, *TRANSFER, *TRANSPORT,
]
# fmt: on
