"""What a node says of itself (A1), and what its operator told it.

What is not known is "unknown" or None, never guessed.
"""

from typing import Annotated, Literal

from msgspec import Meta

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelDescriptor
from zeitgeist.core.descriptors.trust import AuthConfig, AuthMode, TrustBundle
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import NodeId
from zeitgeist.core.units import Nanoseconds

__all__ = [
    "Accelerator",
    "DialTarget",
    "HardwareProfile",
    "MemoryProfile",
    "ModelOffer",
    "NodeConfig",
    "NodeDescriptor",
    "Role",
    "SchemaVersions",
    "Times",
    "WorkerConfig",
]

Accelerator = Literal["cpu", "metal", "cuda", "rocm", "vulkan", "unknown"]
Role = Literal["coordinator", "executor", "client"]


class SchemaVersions(Record, frozen=True, kw_only=True):
    """The six schema versions (A8), as two parties compare them."""

    protocol: int
    model: int
    tensor: int
    cache: int
    backend: int
    kernel: int


class HardwareProfile(Record, frozen=True, kw_only=True):
    """accelerator; tier 0–100 or None; driver, toolchain: their own version words or "unknown"."""

    accelerator: Accelerator
    tier: int | None = None
    driver: str = "unknown"
    toolchain: str = "unknown"


class MemoryProfile(Record, frozen=True, kw_only=True):
    """Bytes, None when unknown."""

    total_bytes: int | None = None
    available_bytes: int | None = None


class NodeDescriptor(Record, frozen=True, kw_only=True):
    """Phase 2 of negotiation: who speaks, on what, with which engines.

    auth: modes it accepts; bundle_version: of its trust bundle, 0 for none; health: its own word.
    """

    node_version: int = 1
    node: NodeId
    cluster: str
    roles: Annotated[tuple[Role, ...], Meta(max_length=3)]
    versions: SchemaVersions
    transports: Annotated[tuple[str, ...], Meta(max_length=16)]
    hardware: HardwareProfile
    memory: MemoryProfile
    auth: Annotated[tuple[AuthMode, ...], Meta(max_length=4)]
    bundle_version: int
    health: Literal["starting", "ready", "degraded", "draining"]
    backends: Annotated[tuple[BackendDescriptor, ...], Meta(max_length=64)]


class ModelOffer(Record, frozen=True, kw_only=True):
    """Phase 3: one model that a backend of the speaker holds ready. backend: the name of the worker that holds it;
    engine: digest of that worker's `BackendDescriptor`, one of `NodeDescriptor.backends` ("" when the speaker has one).
    """

    backend: str
    descriptor: ModelDescriptor
    engine: str = ""


class DialTarget(Record, frozen=True, kw_only=True):
    """Whom to call: address (`tcp:host:port`, `unix:path`, `memory:name`), and who must answer ("" for anyone known).

    certificate: `sha256:` fingerprint that the server must show, from the join line; "" when the CA decides.
    """

    address: str
    node: str = ""
    bulk: bool = True
    certificate: str = ""


class WorkerConfig(Record, frozen=True, kw_only=True):
    """One worker to start: its name, the backend and options, the model as bound by the operator ("" for none)."""

    name: str
    backend: str
    options: tuple[tuple[str, str], ...] = ()
    model_path: str = ""


class Times(Record, frozen=True, kw_only=True):
    """Durations of this node's decisions, nanoseconds.

    handshake: from link up to ready (TLS 1.3 takes 6 ms here, five rounds across an ocean 1 s); heartbeat: silence
    after which we ping; silence: after which a peer counts as gone; redial_first, redial_most: back-off.
    """

    handshake_ns: Nanoseconds = Nanoseconds(10_000_000_000)
    heartbeat_ns: Nanoseconds = Nanoseconds(500_000_000)
    silence_ns: Nanoseconds = Nanoseconds(3_000_000_000)
    redial_first_ns: Nanoseconds = Nanoseconds(100_000_000)
    redial_most_ns: Nanoseconds = Nanoseconds(10_000_000_000)


class NodeConfig(Record, frozen=True, kw_only=True):
    """What the operator decided. Private keys and tokens stay in the host; here stand their fingerprints.

    stream_window: tokens an executor may run ahead of the owner's ack; transfer_bytes_max: the largest tensor taken;
    chunk_credit: chunks that a sender may have in flight; links_max: connections at once.
    """

    node: NodeId
    cluster: str
    roles: tuple[Role, ...]
    auth: AuthConfig
    bundle: TrustBundle | None = None
    dial: tuple[DialTarget, ...] = ()
    workers: tuple[WorkerConfig, ...] = ()
    hardware: HardwareProfile = HardwareProfile(accelerator="unknown")
    memory: MemoryProfile = MemoryProfile()
    times: Times = Times()
    stream_window: int = 64
    transfer_bytes_max: int = 1 << 30
    chunk_credit: int = 8
    links_max: int = 1024
