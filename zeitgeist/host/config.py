"""A node's configuration file: TOML or JSON, to what the core and the host need (DESIGN §10).

Law: every field is known, every path is relative to the file, nothing is guessed: what is missing has the default that
stands here. Secrets are never in it, only the folder that holds them.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from zeitgeist.core.descriptors.node import DialTarget, NodeConfig, Role, Times, WorkerConfig
from zeitgeist.core.descriptors.trust import AuthConfig, AuthMode, TrustLevel
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.ids import KeyId, NodeId
from zeitgeist.core.job.board import WINDOW_MAX
from zeitgeist.core.limits import TENSOR_BYTES_MAX
from zeitgeist.core.wire.messages import NAME_PATTERN
from zeitgeist.host.keyring import Keyring, load_keyring
from zeitgeist.transports.base import parse_address

__all__ = ["HostConfig", "WorkerFile", "host_config", "node_config", "parse_join"]

FILE_BYTES_MAX = 1 << 20
NAME_CHARACTERS_MAX = CLUSTER_CHARACTERS_MAX = 64
CERTIFICATE_PATTERN = r"sha256:[0-9a-f]{64}"
DURATION_NS_MAX = 1 << 50
"""13 days. What is longer is a typing error."""


class WorkerFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker. model: folder or file of the model, "" for none."""

    name: str
    backend: str
    model: str = ""
    options: dict[str, str] = {}


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file. auth: modes in order of preference; keys, state: folders; listen: addresses, loopback by default;
    dial: join lines of others; token_trust, local_trust: what holders of a token, or whoever calls over loopback in
    mode none, may do; stream_window, transfer_bytes_max, payload_bytes_max: bounds."""

    node: str
    cluster: str
    roles: tuple[Role, ...] = ("coordinator", "executor")
    auth: tuple[AuthMode, ...] = ("ed25519",)
    keys: str = ""
    state: str = ""
    listen: tuple[str, ...] = ("tcp:127.0.0.1:0",)
    dial: tuple[str, ...] = ()
    workers: tuple[WorkerFile, ...] = ()
    token_trust: tuple[TrustLevel, ...] = ("untrusted_client",)
    local_trust: tuple[TrustLevel, ...] = ()
    times: Times = Times()
    stream_window: int = 64
    transfer_bytes_max: int = 1 << 30
    payload_bytes_max: int = 4 << 30


def host_config(path: Path) -> HostConfig:
    """Read a file; `zg/host/bad-config`. Paths in it become absolute."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX)
        plain = msgspec.json.decode(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
        found = msgspec.convert(plain, HostConfig)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise LocalProtocolError("zg/host/bad-config", str(error), str(path)) from error
    here = path.resolve().parent
    for address in found.listen:
        parse_address(address)
    for field, got, wanted in faults(found):
        raise LocalProtocolError("zg/host/bad-config", f"got {str(got)[:200]!r}, wanted {wanted}", field)
    workers = tuple(msgspec.structs.replace(w, model=absolute(here, w.model)) for w in found.workers)
    for worker in workers:
        if worker.model and not Path(worker.model).exists():
            raise LocalProtocolError("zg/host/bad-config", f"got {worker.model}, which is not there", "workers.model")
    keys, state = absolute(here, found.keys), absolute(here, found.state)
    return msgspec.structs.replace(found, keys=keys, state=state, workers=workers)


def faults(host: HostConfig) -> Iterator[tuple[str, object, str]]:
    """(field, what stands there, what may) of everything that types alone do not refuse. No node starts with what its
    peers would refuse, or with times that end everything at once."""
    for field, name in (("node", host.node), *(("workers.name", worker.name) for worker in host.workers)):
        if not is_name(name):
            yield (
                field,
                name,
                f"1 to {NAME_CHARACTERS_MAX} of a-z, 0-9, dot, dash and underscore, a letter or digit first",
            )
    names = [host.node, *(worker.name for worker in host.workers)]
    if len(dict.fromkeys(names)) < len(names):
        yield "workers.name", names[1:], "names that differ from each other and from the node's"
    if not 1 <= len(host.cluster) <= CLUSTER_CHARACTERS_MAX:
        yield "cluster", host.cluster, f"1 to {CLUSTER_CHARACTERS_MAX} characters"
    for field, words in (("roles", host.roles), ("auth", host.auth)):
        if not words or len(dict.fromkeys(words)) < len(words):
            yield field, words, "one at least, and none twice"
    for field, number, most in (
        ("stream_window", host.stream_window, WINDOW_MAX),
        ("transfer_bytes_max", host.transfer_bytes_max, TENSOR_BYTES_MAX),
        ("payload_bytes_max", host.payload_bytes_max, 1 << 50),
        *((f"times.{field}", getattr(host.times, field), DURATION_NS_MAX) for field in Times.__struct_fields__),
    ):
        if not 1 <= number <= most:
            yield field, number, f"1 to {most}"
    if host.times.silence_ns <= host.times.heartbeat_ns:
        yield "times.silence_ns", host.times.silence_ns, "more than heartbeat_ns: who is silent was asked first"
    if host.times.redial_most_ns < host.times.redial_first_ns:
        yield "times.redial_most_ns", host.times.redial_most_ns, "at least redial_first_ns"


def is_name(text: str) -> bool:
    """A name as it may travel."""
    return len(text) <= NAME_CHARACTERS_MAX and re.match(NAME_PATTERN, text) is not None


def absolute(here: Path, text: str) -> str:
    return str(here / text) if text else ""


def node_config(host: HostConfig) -> tuple[NodeConfig, Keyring]:
    """What the core is told, and the keys that stay here. Errors of `load_keyring`, `zg/host/bad-config`."""
    if host.keys and not Path(host.keys).is_dir():
        raise LocalProtocolError("zg/host/bad-config", f"got {host.keys}, which is no folder", "keys")
    ring = load_keyring(Path(host.keys)) if host.keys else Keyring()
    if "token" in host.auth and not ring.tokens and len(host.auth) == 1:
        raise LocalProtocolError("zg/host/bad-config", "got mode token and no token in the keys folder", "auth")
    if "ed25519" in host.auth and not ring.keys:
        raise LocalProtocolError("zg/host/bad-config", "got mode ed25519 and no key in the keys folder", "auth")
    if set(host.auth) & {"ed25519", "mtls"} and ring.bundle is None:
        raise LocalProtocolError("zg/host/bad-config", "got no bundle in the keys folder: nobody is believed", "keys")
    newest = ring.keys[-1] if ring.keys else None
    auth = AuthConfig(
        modes=host.auth,
        key=newest.id if newest else KeyId(""),
        public=newest.public if newest else b"",
        tokens=tuple(token.member_key() for token in ring.tokens),
        token_trust=host.token_trust,
        local_trust=host.local_trust,
    )
    config = NodeConfig(
        node=NodeId(host.node),
        cluster=host.cluster,
        roles=host.roles,
        auth=auth,
        bundle=ring.bundle,
        dial=tuple(map(parse_join, host.dial)),
        workers=tuple(worker_config(worker) for worker in host.workers),
        times=host.times,
        stream_window=host.stream_window,
        transfer_bytes_max=host.transfer_bytes_max,
    )
    return config, ring


def worker_config(worker: WorkerFile) -> WorkerConfig:
    options = tuple(sorted(worker.options.items()))
    return WorkerConfig(name=worker.name, backend=worker.backend, options=options, model_path=worker.model)


def parse_join(line: str) -> DialTarget:
    """`ADDRESS [node=NAME] [certificate=sha256:…]`, as `zeitgeist.host.keys show` prints it."""
    address, *rest = line.split() or [""]
    parse_address(address)
    words = dict(word.split("=", 1) for word in rest if "=" in word)
    if len(words) != len(rest) or set(words) - {"node", "certificate"}:
        raise LocalProtocolError(
            "zg/host/bad-config", f"got {line[:200]!r}, wanted ADDRESS node=… certificate=…", "dial"
        )
    node, certificate = words.get("node", ""), words.get("certificate", "")
    if (node and not is_name(node)) or (certificate and not re.fullmatch(CERTIFICATE_PATTERN, certificate)):
        raise LocalProtocolError(
            "zg/host/bad-config", f"got {line[:200]!r}, wanted a node's name, sha256: and 64 hex digits", "dial"
        )
    return DialTarget(address=address, node=node, certificate=certificate)
