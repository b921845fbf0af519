"""What the operators of a scenario decided: configurations, keys, the trust bundle of nodes and workers (A1, H1).

Law: every node has the same bundle, or with tokens none, since a token proves membership and no name. A node's key,
certificate and address follow from its name, so that two runs agree.
"""

from sim.backend import descriptor, offer
from sim.entropy import Entropy
from sim.scenario import NodeSpec, Scenario
from sim.signing import key_of, public_of
from zeitgeist.core.descriptors.node import DialTarget, HardwareProfile, NodeConfig, WorkerConfig
from zeitgeist.core.descriptors.trust import AuthConfig, Member, MemberKey, TrustBundle
from zeitgeist.core.effects import Boot, Durable, WallClock
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest, KeyId, NodeId

__all__ = ["EPOCH_UTC_NS", "address_of", "boot_of", "certificate_of", "clock_at", "config_of", "worker_config"]

EPOCH_UTC_NS = 1_800_000_000_000_000_000
"""When simulated wall clocks begin: 2027-01-15T08:00:00Z."""
YEAR_NS = 365 * 86_400 * 1_000_000_000
CLUSTER = "simulated"
PORT = 7411
TOKEN = KeyId(content_digest(b"zg-sim token"))


def address_of(node: str) -> str:
    """Where a node listens."""
    return f"tcp:{node}:{PORT}"


def certificate_of(node: str) -> str:
    """The fingerprint of the certificate that a node shows."""
    return "sha256:" + content_digest(b"zg-sim certificate " + node.encode()).partition(":")[2]


def bundle_of(scenario: Scenario) -> TrustBundle:
    """All nodes of the scenario, each with one key."""
    members = tuple(
        Member(
            node=NodeId(node.name),
            keys=(
                MemberKey(
                    key=key_of(node.name),
                    public=public_of(node.name),
                    from_utc_ns=EPOCH_UTC_NS - YEAR_NS,
                    until_utc_ns=EPOCH_UTC_NS + YEAR_NS,
                ),
            ),
            trust=node.trust,
            subject=node.name,
        )
        for node in scenario.nodes
    )
    return TrustBundle(
        bundle_version=1,
        cluster=CLUSTER,
        issued_utc_ns=EPOCH_UTC_NS - YEAR_NS,
        expires_utc_ns=EPOCH_UTC_NS + YEAR_NS,
        members=members,
    )


def config_of(scenario: Scenario, node: NodeSpec) -> NodeConfig:
    """What the operator of node decided."""
    token = MemberKey(key=TOKEN, from_utc_ns=EPOCH_UTC_NS - YEAR_NS, until_utc_ns=EPOCH_UTC_NS + YEAR_NS)
    auth = AuthConfig(
        modes=(scenario.auth, "none") if node.workers and scenario.auth != "none" else (scenario.auth,),
        key=key_of(node.name),
        public=public_of(node.name),
        tokens=(token,) if scenario.auth == "token" else (),
        token_trust=("trusted_executor", "trusted_cache_peer", "trusted_tensor_peer"),
        local_trust=("trusted_executor", "trusted_cache_peer", "trusted_tensor_peer"),
    )
    return NodeConfig(
        node=NodeId(node.name),
        cluster=CLUSTER,
        roles=node.roles,
        auth=auth,
        bundle=None if scenario.auth == "token" else bundle_of(scenario),
        dial=tuple(
            DialTarget(address=address_of(peer), node=peer, certificate=certificate_of(peer)) for peer in node.dial
        ),
        workers=tuple(WorkerConfig(name=worker, backend="synthetic") for worker in node.workers),
        hardware=HardwareProfile(accelerator="cpu"),
    )


def worker_config(node: str, worker: str) -> NodeConfig:
    """A worker knows its parent by the socket that it was born with."""
    trust = ("trusted_executor", "trusted_cache_peer", "trusted_tensor_peer")
    return NodeConfig(
        node=NodeId(f"{node}.{worker}"),
        cluster=CLUSTER,
        roles=("executor",),
        auth=AuthConfig(modes=("none",), local_trust=trust),
        hardware=HardwareProfile(accelerator="cpu"),
    )


def boot_of(
    config: NodeConfig, core: Digest, entropy: Entropy, epoch: int, durable: dict[str, bytes], worker: str = ""
) -> Boot:
    """The first input. worker: the name that its parent calls it by; a node has none."""
    return Boot(
        core=core,
        config=config,
        epoch=epoch,
        seed=entropy.secret("boot", f"{config.node} {epoch}"),
        durable=tuple(Durable(key=key, value=durable[key]) for key in sorted(durable)),
        backends=(descriptor(),) if worker else (),
        models=(offer(worker),) if worker else (),
    )


def clock_at(instant: int) -> WallClock:
    """The wall clock of a host at a simulated instant: right within 10 ms, as NTP keeps it."""
    return WallClock(utc_ns=EPOCH_UTC_NS + instant, error_ns=10_000_000)
