"""A node's keys folder: private keys, shared tokens, certificates, the bundle of those it believes (H1).

Files, all 0600 in a folder 0700: `node-N.json` and `token-N.json` with their windows, the newest last; `tls.pem` and
`tls.key`; `authority.pem` of the cluster; `bundle.json`; `member.json`, which holds nothing secret and is what other
nodes get. Law: a secret leaves this module as a proof, never as bytes in a record; a fingerprint names it.
"""

import hashlib
import hmac
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from zeitgeist.core.descriptors.trust import MemberKey, TrustBundle
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import KeyId
from zeitgeist.host.private_files import require_private
from zeitgeist.transports.tls import TlsFiles

__all__ = ["FILE_BYTES_MAX", "Keyring", "SecretFile", "load_keyring", "read_record", "token_id"]

FILE_BYTES_MAX = 1 << 20
TOKEN_DOMAIN = b"zeitgeist token fingerprint\x00"

R = TypeVar("R", bound=Record)


class SecretFile(Record, frozen=True, kw_only=True):
    """One secret of 32 bytes: of Ed25519, or shared. id, public: as others know it."""

    kind: Literal["ed25519", "token"]
    id: KeyId
    secret: bytes
    public: bytes = b""
    from_utc_ns: int
    until_utc_ns: int

    def member_key(self) -> MemberKey:
        """What others may know."""
        return MemberKey(key=self.id, public=self.public, from_utc_ns=self.from_utc_ns, until_utc_ns=self.until_utc_ns)


class Keyring(msgspec.Struct, frozen=True, kw_only=True):
    """All of one folder. keys, tokens: the newest last."""

    keys: tuple[SecretFile, ...] = ()
    tokens: tuple[SecretFile, ...] = ()
    bundle: TrustBundle | None = None
    tls: TlsFiles | None = None

    def secret(self, kind: Literal["ed25519", "token"], id: KeyId) -> bytes:
        """The secret of a fingerprint; `zg/host/no-such-key`."""
        for held in self.keys if kind == "ed25519" else self.tokens:
            if held.id == id:
                return held.secret
        raise LocalProtocolError("zg/host/no-such-key", f"got {id[:80]}, which is not among our {kind} keys", "key")


def token_id(token: bytes) -> KeyId:
    """A shared token's fingerprint: tells nothing of it, and is of no use as a proof."""
    return KeyId(content_digest(hmac.digest(token, TOKEN_DOMAIN, hashlib.sha256)))


def load_keyring(folder: Path) -> Keyring:
    """Read a folder. Errors: `zg/host/permissions`, `zg/host/bad-key`."""
    require_private(folder)
    tls = TlsFiles(
        certificate=folder / "tls.pem",
        key=folder / "tls.key",
        authority=folder / "authority.pem" if (folder / "authority.pem").exists() else None,
    )
    if tls.key.exists():
        require_private(tls.key)
    bundle = folder / "bundle.json"
    return Keyring(
        keys=read_secrets(folder, "node", "ed25519"),
        tokens=read_secrets(folder, "token", "token"),
        bundle=read_record(bundle, TrustBundle) if bundle.exists() else None,
        tls=tls if tls.key.exists() else None,
    )


def read_secrets(folder: Path, name: str, kind: str) -> tuple[SecretFile, ...]:
    """`name-N.json` by number."""
    paths = sorted(folder.glob(f"{name}-*.json"), key=lambda path: (len(path.name), path.name))
    found: list[SecretFile] = []
    for path in paths:
        require_private(path)
        secret = read_record(path, SecretFile)
        right = token_id(secret.secret) if kind == "token" else content_digest(secret.public)
        if secret.kind != kind or len(secret.secret) != 32 or secret.id != right:
            raise LocalProtocolError("zg/host/bad-key", f"got a {secret.kind} that is not {secret.id[:20]}…", str(path))
        found.append(secret)
    return tuple(found)


def read_record(path: Path, kind: type[R]) -> R:
    """One record as JSON; `zg/host/bad-key` when it is none, or there is no such file."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=kind)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LocalProtocolError("zg/host/bad-key", str(error), str(path)) from error
