"""Make a node's keys: `python -m zeitgeist.host.keys VERB FOLDER …` (H1); `--help` lists the verbs.

Law: secrets are made here and stay in their folder (0700, files 0600). What is printed may be shown to anybody: names,
fingerprints, and the line by which another node joins. A key is never replaced; a rotation adds one, and shortens the
old one's window to the overlap, so that both are good until every node has the new bundle (H3).
"""

import argparse
import ipaddress
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zeitgeist.core.descriptors.trust import TRUST_LEVELS, Member, TrustBundle, TrustLevel
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import KeyId, NodeId
from zeitgeist.host.keyring import SecretFile, load_keyring, read_record, token_id
from zeitgeist.host.private_files import create_private, private_folder, replace_private
from zeitgeist.transports.tls import own_fingerprint

__all__ = [
    "add_node_key",
    "add_token",
    "believe",
    "join_line",
    "main",
    "make_authority",
    "make_bundle",
    "make_certificate",
    "rotate_node_key",
]

DAY_NS = 86_400 * 10**9
YEAR_DAYS = 365
SKEW = timedelta(minutes=5)
"""What is made now is good five minutes ago: no two clocks agree."""
SKEW_NS = 300 * 10**9


def add_node_key(folder: Path, node: str, *, days: int = YEAR_DAYS, from_utc_ns: int | None = None) -> KeyId:
    """One more Ed25519 key; `member.json` names them all. Its fingerprint."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    begin = time.time_ns() - SKEW_NS if from_utc_ns is None else from_utc_ns
    secret = SecretFile(
        kind="ed25519",
        id=KeyId(content_digest(public)),
        secret=private.private_bytes_raw(),
        public=public,
        from_utc_ns=begin,
        until_utc_ns=begin + days * DAY_NS,
    )
    write_next(private_folder(folder), "node", secret)
    write_member(folder, node)
    return secret.id


def add_token(folder: Path, token: bytes | None = None, *, days: int = YEAR_DAYS) -> KeyId:
    """One more shared token, new or as another node has it (32 bytes). Its fingerprint."""
    token = os.urandom(32) if token is None else token
    if len(token) != 32:
        raise LocalProtocolError("zg/host/bad-key", f"got {len(token)} bytes, wanted 32", "token")
    begin = time.time_ns() - SKEW_NS
    secret = SecretFile(
        kind="token", id=token_id(token), secret=token, from_utc_ns=begin, until_utc_ns=begin + days * DAY_NS
    )
    write_next(private_folder(folder), "token", secret)
    return secret.id


def rotate_node_key(folder: Path, node: str, *, overlap_days: int, days: int = YEAR_DAYS) -> KeyId:
    """A new key; every older one ends overlap_days from now, or when it would have. The new fingerprint."""
    until = time.time_ns() + overlap_days * DAY_NS
    for number, secret in enumerate(load_keyring(folder).keys, 1):
        ends = min(secret.until_utc_ns, until)
        write(folder / f"node-{number}.json", msgspec.structs.replace(secret, until_utc_ns=ends))
    return add_node_key(folder, node, days=days)


def make_bundle(
    folder: Path, members: Sequence[Member], cluster: str, *, days: int = YEAR_DAYS, trust: Sequence[TrustLevel] = ()
) -> TrustBundle:
    """Write the bundle of the cluster's members, a version past the last one in folder. trust: of all, where given.

    Nodes that hold different bundles of one version refuse one another, so it is made once, then given to each.
    """
    held = load_keyring(private_folder(folder)).bundle
    now = time.time_ns()
    bundle = TrustBundle(
        bundle_version=held.bundle_version + 1 if held else 1,
        cluster=cluster,
        issued_utc_ns=now,
        expires_utc_ns=now + days * DAY_NS,
        members=tuple(msgspec.structs.replace(member, trust=tuple(trust) or member.trust) for member in members),
    )
    write(folder / "bundle.json", bundle)
    return bundle


def believe(folder: Path, bundle: TrustBundle) -> None:
    """Give a node the cluster's bundle, the same for all; an older one than it has is refused (`zg/host/bad-key`)."""
    held = load_keyring(folder).bundle
    if held is not None and held.bundle_version > bundle.bundle_version:
        got, wanted = bundle.bundle_version, held.bundle_version
        raise LocalProtocolError("zg/host/bad-key", f"got version {got}, wanted {wanted} or later", "bundle")
    write(folder / "bundle.json", bundle)


def make_authority(folder: Path, cluster: str, *, days: int = 10 * YEAR_DAYS) -> None:
    """The cluster's CA: `authority.key`, which only its maker needs, and `authority.pem`, which every node gets."""
    private = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} authority")])
    certificate = (
        builder(name, name, private, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .sign(private, None)
    )
    create_private(private_folder(folder) / "authority.key", pem_of(private))
    create_private(folder / "authority.pem", certificate.public_bytes(serialization.Encoding.PEM))


def make_certificate(folder: Path, node: str, hosts: Sequence[str], authority: Path, *, days: int = YEAR_DAYS) -> str:
    """A certificate for both directions, signed by the CA in another folder. hosts: names and addresses it may be
    called by. Its fingerprint."""
    signer = serialization.load_pem_private_key((authority / "authority.key").read_bytes(), None)
    root = (authority / "authority.pem").read_bytes()
    assert isinstance(signer, Ed25519PrivateKey), "authority.key is made by make_authority"
    private = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        builder(subject, x509.load_pem_x509_certificate(root).subject, private, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([alternative(host) for host in hosts]), critical=False)
        .sign(signer, None)
    )
    create_private(private_folder(folder) / "tls.key", pem_of(private))
    create_private(folder / "tls.pem", certificate.public_bytes(serialization.Encoding.PEM))
    if authority.resolve() != folder.resolve():
        replace_private(folder / "authority.pem", root)
    if (folder / "member.json").exists():
        write_member(folder, node)
    tls = load_keyring(folder).tls
    assert tls is not None
    return own_fingerprint(tls)


def join_line(folder: Path, address: str, node: str) -> str:
    """What another operator pastes as a dial target."""
    tls = load_keyring(folder).tls
    return f"{address} node={node}" + (f" certificate={own_fingerprint(tls)}" if tls else "")


def builder(subject: x509.Name, issuer: x509.Name, key: Ed25519PrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def pem_of(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write(path: Path, record: Record) -> None:
    replace_private(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def write_next(folder: Path, name: str, secret: SecretFile) -> None:
    number = len(list(folder.glob(f"{name}-*.json"))) + 1
    create_private(folder / f"{name}-{number}.json", msgspec.json.format(msgspec.json.encode(secret)) + b"\n")


def write_member(folder: Path, node: str) -> None:
    """What other nodes may know of this one. The certificate's subject is the node's name."""
    ring = load_keyring(folder)
    member = Member(
        node=NodeId(node),
        keys=tuple(secret.member_key() for secret in ring.keys),
        trust=("trusted_executor",),
        subject=node if ring.tls else "",
    )
    write(folder / "member.json", member)


# ---- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line that says what was refused."""
    parser = argparse.ArgumentParser(prog="zeitgeist.host.keys", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, (about, options) in VERBS.items():
        command = verbs.add_parser(verb, help=about, description=about)
        command.add_argument("folder", type=Path)
        for option in options:
            command.add_argument(option, **OPTIONS[option])
    try:
        for line in done(parser.parse_args(arguments)):
            print(line)
    except (ZeitgeistError, OSError) as error:
        print(f"keys: {error}", file=sys.stderr)
        return 2
    return 0


VERBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "node": ("make an Ed25519 key for a node", ("--node", "--days")),
    "token": ("make a shared token, or take one from another node's folder", ("--from", "--days")),
    "authority": ("make the CA of a cluster", ("--cluster",)),
    "certificate": (
        "make a TLS certificate, signed by the CA in --authority",
        ("--node", "--host", "--authority", "--days"),
    ),
    "believe": ("give a node the bundle of another folder", ("--from",)),
    "bundle": ("write who is of the cluster, from their member.json", ("--cluster", "--member", "--trust", "--days")),
    "rotate": ("add a key; older ones end after --overlap-days", ("--node", "--overlap-days", "--days")),
    "show": ("print fingerprints and the line by which others join", ("--node", "--address")),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "--node": {"required": True},
    "--cluster": {"required": True},
    "--days": {"type": int, "default": YEAR_DAYS},
    "--from": {"type": Path, "dest": "source", "help": "folder to take it from"},
    "--host": {"action": "append", "required": True},
    "--authority": {"type": Path, "required": True},
    "--member": {"type": Path, "action": "append", "required": True},
    "--trust": {"action": "append", "choices": list(TRUST_LEVELS), "default": []},
    "--overlap-days": {"type": int, "required": True},
    "--address": {"default": "tcp:127.0.0.1:7700"},
}


def done(chosen: argparse.Namespace) -> list[str]:
    """Do it; what to print."""
    folder: Path = chosen.folder
    match chosen.verb:
        case "node":
            return [f"key: {add_node_key(folder, chosen.node, days=chosen.days)}"]
        case "token":
            held = load_keyring(chosen.source).tokens if chosen.source else ()
            return [f"token: {add_token(folder, held[-1].secret if held else None, days=chosen.days)}"]
        case "authority":
            make_authority(folder, chosen.cluster)
            return [f"authority: {folder / 'authority.pem'}"]
        case "certificate":
            made = make_certificate(folder, chosen.node, chosen.host, chosen.authority, days=chosen.days)
            return [f"certificate: {made}"]
        case "bundle":
            members = [read_record(path, Member) for path in chosen.member]
            bundle = make_bundle(folder, members, chosen.cluster, days=chosen.days, trust=chosen.trust)
            return [f"bundle: version {bundle.bundle_version}, {len(members)} members"]
        case "believe":
            bundle = load_keyring(chosen.source).bundle if chosen.source else None
            if bundle is None:
                raise LocalProtocolError("zg/host/bad-key", f"{chosen.source} holds no bundle", "--from")
            believe(folder, bundle)
            return [f"bundle: version {bundle.bundle_version}, {len(bundle.members)} members"]
        case "rotate":
            made = rotate_node_key(folder, chosen.node, overlap_days=chosen.overlap_days, days=chosen.days)
            return [f"key: {made}", "give member.json to every node, and make their bundles anew"]
        case _:
            ring = load_keyring(folder)
            lines = [f"key: {secret.id}" for secret in ring.keys] + [f"token: {secret.id}" for secret in ring.tokens]
            return [*lines, f"join: {join_line(folder, chosen.address, chosen.node)}"]


if __name__ == "__main__":
    sys.exit(main())
