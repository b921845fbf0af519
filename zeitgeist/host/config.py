"""A node's configuration file: TOML or JSON, to what the core and the host need (DESIGN §10).

Law: every field is known, every path is relative to the file, nothing is guessed: what is missing has the default that
stands here. Secrets are never in it, only the folder that holds them.
"""

import tomllib
from pathlib import Path

import msgspec

from zeitgeist.core.descriptors.node import DialTarget, NodeConfig, Role, Times, WorkerConfig
from zeitgeist.core.descriptors.trust import AuthConfig, AuthMode, TrustLevel
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.ids import KeyId, NodeId
from zeitgeist.host.keyring import Keyring, load_keyring
from zeitgeist.transports.base import parse_address

__all__ = ["HostConfig", "WorkerFile", "host_config", "node_config", "parse_join"]

FILE_BYTES_MAX = 1 << 20


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
    workers = tuple(msgspec.structs.replace(w, model=absolute(here, w.model)) for w in found.workers)
    keys, state = absolute(here, found.keys), absolute(here, found.state)
    return msgspec.structs.replace(found, keys=keys, state=state, workers=workers)


def absolute(here: Path, text: str) -> str:
    return str(here / text) if text else ""


def node_config(host: HostConfig) -> tuple[NodeConfig, Keyring]:
    """What the core is told, and the keys that stay here. Errors of `load_keyring`, `zg/host/bad-config`."""
    ring = load_keyring(Path(host.keys)) if host.keys else Keyring()
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
    return DialTarget(address=address, node=words.get("node", ""), certificate=words.get("certificate", ""))
