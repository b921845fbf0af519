"""The rows of the error registry that are about parties, not about bytes: same columns as `error_table.py`, same law.

Grouped by area, alphabetical inside a group. Ids are never reused; add, do not rename.
"""

from zeitgeist.core.error_table import Row

__all__ = ["PROTOCOL_ROWS"]

# One row is one thought: two lines read better here than six.
# fmt: off
AUTH: list[Row] = [
]

HOST: list[Row] = [
    ("zg/host/bad-config", "caller", True, "the configuration of a node cannot be read or contradicts itself",
     "the field stands in the message"),
    ("zg/host/bad-key", "caller", True, "a key, token or bundle file is damaged or of another kind",
     "make new ones with `python -m zeitgeist.host.keys`"),
    ("zg/host/busy", "caller", True, "another process uses this node's state folder",
     "stop it, or give this node a folder of its own"),
    ("zg/host/damaged-journal", "host", True, "a record in the middle of the journal is damaged",
     "the disk lies: restore the file, or move it away and join as a new node"),
    ("zg/host/exists", "caller", True, "the file would be overwritten",
     "choose another folder; keys are never replaced"),
    ("zg/host/no-such-key", "caller", True, "the core asked for a key that this host does not hold",
     "look at the fingerprints in the configuration and in the keys folder"),
    ("zg/host/permissions", "caller", True, "other users can read or change a secret file or its folder",
     "chmod 600 the file, 700 the folder; if others had access, make new keys"),
    ("zg/host/slow-listener", "caller", True, "an application did not take its events, and more came than are kept",
     "take events as they come"),
    ("zg/host/stopped", "caller", True, "the node has stopped", "start it again"),
]

JOB: list[Row] = [
]

NEGOTIATE: list[Row] = [
]

NODE: list[Row] = [
    ("zg/node/boot-once", "caller", True, "the first input of a node is its boot, and there is one",
     "a driver starts a new node for a new boot"),
    ("zg/node/not-allowed", "peer", True, "the peer holds none of the roles that this message needs",
     "give the peer the role in the trust bundle, or ask another node"),
    ("zg/node/not-persisted", "host", False, "a record that something depended on could not be written",
     "look at the disk; the message has its error"),
    ("zg/node/time-went-back", "caller", True, "a step came with an earlier time than the one before",
     "a driver's clock is monotonic since boot"),
    ("zg/node/unexpected-content", "peer", True, "bytes follow a record that carries none",
     "look at the peer's encoder"),
    ("zg/node/unknown-kind", "peer", True, "no record has this number", "both sides must run the same version"),
    ("zg/node/unknown-link", "caller", True, "a frame came of a link that is not up",
     "nothing: a frame may arrive behind the end of its link"),
    ("zg/node/unknown-ticket", "caller", True, "an answer came that nobody waits for, or a second time",
     "a driver answers each call and each sync persist once"),
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
    ("zg/sim/bad-scenario", "caller", True, "a scenario names what does not exist, or a value outside its range",
     "the field and what would be right stand in the message"),
    ("zg/sim/bad-usage", "caller", True, "the command line asks for what cannot be", "zg-sim COMMAND --help"),
    ("zg/sim/core-crashed", "us", False, "a step of the core raised in a simulated run",
     "the same seed does it again; the recording's last entry is the input that did it"),
    ("zg/sim/foreign-package", "host", True, "another distribution owns the package `sim` of this environment",
     "uninstall it, or use an environment of its own"),
    ("zg/sim/not-deterministic", "us", False, "two runs of one seed did not do the same",
     "the first step that differs stands in the report: look for a set, a hash, a clock behind it"),
    ("zg/sim/no-trace", "caller", True, "a recording cannot be opened", "check the path and its permissions"),
    ("zg/sim/out-dir", "caller", True, "the folder for recordings cannot be written", "choose another with --record"),
    ("zg/sim/stuck", "us", False, "a party took more steps at one instant than any work needs",
     "it asks to be woken at a time that has passed, or two parties answer each other without delay"),
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
    ("zg/transfer/bad-credit", "peer", True, "the receiver granted more credit than makes sense",
     "look at the peer's receiver; credit is granted as chunks arrive"),
    ("zg/transfer/bad-index", "peer", True, "a chunk was asked for that the tensor does not have, or out of order",
     "look at the peer's receiver; indices ascend and are below chunk_count"),
    ("zg/transfer/bad-number", "peer", True, "the offer's number was used before or belongs to the other side",
     "the dialler's numbers are odd, the acceptor's even, and each is higher than the last"),
    ("zg/transfer/bad-offer", "peer", True, "a tensor under way was offered again with another envelope or channel",
     "give another tensor another id"),
    ("zg/transfer/bad-range", "peer", True, "what the receiver says it has is not inside the tensor, or out of order",
     "look at the peer's receiver; ranges ascend, do not touch and are inside chunk_count"),
    ("zg/transfer/draining", "host", True, "the node finishes what runs and starts nothing new",
     "send to another node, or again after the restart"),
    ("zg/transfer/duplicate", "caller", True, "the same tensor is already on its way to this peer",
     "wait for its end, or give another tensor another id"),
    ("zg/transfer/no-link", "host", False, "no bulk link to the peer came up in time",
     "look why the peer cannot be dialled, then send again: chunks that arrived are not sent twice"),
    ("zg/transfer/not-trusted", "peer", True, "the peer does not hold the role that this channel needs",
     "give it trusted_tensor_peer, trusted_cache_peer or trusted_executor in the trust bundle"),
    ("zg/transfer/silent", "peer", False, "the receiver said nothing about the transfer in time",
     "look at the receiver's trace, then send again"),
    ("zg/transfer/stalled", "peer", False, "chunks that were asked for several times did not come",
     "look at the sender's trace and at the link"),
    ("zg/transfer/too-many", "host", True, "as many transfers or bytes are under way as the receiver or sender takes",
     "send again when some have ended"),
    ("zg/transfer/too-many-chunks", "peer", False, "far more chunks were carried or asked for than the tensor has",
     "find what damages or doubles them"),
    ("zg/transfer/unexpected-chunk", "peer", False, "a chunk came that does not belong to the transfer",
     "look at the peer's sender"),
    ("zg/transfer/unjudged", "host", False, "the driver did not digest the whole in time", "look at the host's load"),
    ("zg/transfer/unknown", "peer", True, "the message is about a transfer that nobody offered",
     "look at the peer's order of messages in the trace"),
    ("zg/transfer/wrong-channel", "peer", False, "a chunk came on another channel than the transfer was offered for",
     "look at the peer's sender"),
    ("zg/transfer/wrong-content", "caller", True, "the content is not what its envelope says",
     "make the envelope from the bytes that are sent"),
    ("zg/transfer/wrong-state", "peer", True, "the message is not allowed in this state of the transfer",
     "look at the peer's order of messages in the trace"),
]

TRANSPORT: list[Row] = [
    ("zg/transport/bad-address", "caller", True, "an address is not of a form that we know",
     "write tcp:host:port, unix:path or memory:name"),
    ("zg/transport/bad-certificate", "caller", True, "a certificate or its key cannot be read",
     "look at the file; `python -m zeitgeist.host.keys` makes new ones"),
    ("zg/transport/certificate", "peer", True, "the server showed another certificate than the one that was pinned",
     "take the fingerprint from the server's join line; if that is not it, someone stands between"),
    ("zg/transport/dial-failed", "host", True, "no connection could be made to this address",
     "look whether the node runs, listens there, and is reachable"),
    ("zg/transport/listen-failed", "host", True, "the address cannot be listened on",
     "choose another port or path, or stop who uses it"),
    ("zg/transport/memory-full", "host", True, "payloads of this node would take more memory than it was given",
     "raise payload_bytes_max, or send less at once"),
    ("zg/transport/needs-tls", "caller", True, "other hosts can reach this address, and nothing would encrypt",
     "configure keys, or bind a loopback address"),
    ("zg/transport/no-trust", "caller", True, "there is nothing to judge a server's certificate by",
     "give the fingerprint of the join line, or the cluster's CA"),
    ("zg/transport/tls", "peer", True, "the TLS handshake failed",
     "look at both sides' certificates and at the CA; the message stands in the detail"),
    ("zg/transport/too-early", "peer", True, "a peer that is not yet known announced a large payload",
     "look at the peer's encoder; nothing large belongs before the handshake's end"),
]

PROTOCOL_ROWS: list[Row] = [
    *AUTH, *HOST, *JOB, *NEGOTIATE, *NODE, *PLAN, *SESSION, *SIM, *TRACE, *TRANSFER, *TRANSPORT,
]
# fmt: on
