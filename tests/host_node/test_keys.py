"""Keys are made once, kept from others, named by fingerprints, and rotated with an overlap (H1, H3; transports.md)."""

import os
import ssl
import time
from pathlib import Path

import pytest

from zeitgeist.core.descriptors.trust import Member
from zeitgeist.core.effects import Sign, Verify
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import KeyId, Ticket
from zeitgeist.host.config import parse_join
from zeitgeist.host.keyring import load_keyring, read_record
from zeitgeist.host.keys import (
    add_node_key,
    add_token,
    believe,
    main,
    make_authority,
    make_bundle,
    make_certificate,
    rotate_node_key,
)
from zeitgeist.host.proofs import prove, verified

pytestmark = pytest.mark.requirement("H1")
DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize("name", ["node-1.json", "token-1.json", "tls.key", "."])
def test_a_secret_that_others_can_read_is_refused(name: str, tmp_path: Path) -> None:
    """All are 0600 in a 0700 folder as made; one bit more for the group, and loading names the file."""
    folder = everything(tmp_path)
    assert load_keyring(folder).keys
    path = folder / name
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(ZeitgeistError) as refusal:
        load_keyring(folder)
    assert refusal.value.id == "zg/host/permissions"
    assert str(path) in str(refusal.value)


def test_proofs_hold_for_their_message_their_key_and_nothing_else(tmp_path: Path) -> None:
    """Ed25519 and HMAC: one bit of message, proof or key, and the answer is no; a key that is not held is an error."""
    ring = load_keyring(everything(tmp_path))
    other = load_keyring(everything(tmp_path / "other"))
    for mode, held, public in (("ed25519", ring.keys[0], ring.keys[0].public), ("token", ring.tokens[0], b"")):
        message = b"the transcript"
        proof = prove(ring, Sign(ticket=Ticket(1), mode=mode, key=held.id, message=message))
        flipped = bytes([proof[0] ^ 1]) + proof[1:]

        def asked(message: bytes, proof: bytes, public: bytes = public, mode: str = mode, key: KeyId = held.id) -> bool:
            call = Verify(ticket=Ticket(2), mode=mode, key=key, public=public, message=message, proof=proof)
            return verified(ring, call)

        assert asked(message, proof)
        assert not asked(message + b"!", proof)
        assert not asked(message, flipped)
        assert not asked(message, b"")
        if mode == "ed25519":
            assert not asked(message, proof, public=other.keys[0].public)
            assert not asked(message, proof, public=b"no key")
        with pytest.raises(ZeitgeistError) as refusal:
            prove(other, Sign(ticket=Ticket(3), mode=mode, key=held.id, message=message))
        assert refusal.value.id == "zg/host/no-such-key"


@pytest.mark.requirement("H3")
def test_a_rotation_adds_a_key_and_shortens_the_old_one_to_the_overlap(tmp_path: Path) -> None:
    """Two rotations: three keys, no file replaced by another key, windows that overlap by the days asked for."""
    folder = tmp_path / "a"
    first = add_node_key(folder, "a")
    second = rotate_node_key(folder, "a", overlap_days=7)
    third = rotate_node_key(folder, "a", overlap_days=1)
    ring = load_keyring(folder)
    assert [key.id for key in ring.keys] == [first, second, third]
    now = time.time_ns()
    assert all(key.from_utc_ns < now for key in ring.keys)
    assert 0 < ring.keys[0].until_utc_ns - now <= DAY_NS
    assert 0 < ring.keys[1].until_utc_ns - now <= DAY_NS
    assert ring.keys[2].until_utc_ns - now > 300 * DAY_NS
    member = read_record(folder / "member.json", Member)
    assert [key.key for key in member.keys] == [first, second, third]
    assert all(content_digest(key.public) == key.key for key in member.keys)


def test_what_others_get_holds_no_secret(tmp_path: Path) -> None:
    """Neither member.json nor the bundle has the bytes of a private key, in any base that they are written in."""
    folder = everything(tmp_path)
    ring = load_keyring(folder)
    bundle = make_bundle(tmp_path / "ca2", [read_record(folder / "member.json", Member)], "home")
    believe(folder, bundle)
    texts = [(folder / "member.json").read_bytes(), (folder / "bundle.json").read_bytes()]
    import base64

    for secret in (*ring.keys, *ring.tokens):
        for text in texts:
            assert base64.b64encode(secret.secret) not in text
            assert secret.secret.hex().encode() not in text
    with pytest.raises(ZeitgeistError):
        older = make_bundle(tmp_path / "ca3", [], "home")
        believe(folder, make_bundle(tmp_path / "ca2", [], "home"))
        believe(folder, older)


def test_the_command_makes_a_cluster_and_prints_a_line_to_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All verbs; the join line parses to the server's fingerprint; what exists stays."""
    folder, ca = str(tmp_path / "a"), str(tmp_path / "ca")
    for words in (
        ["authority", ca, "--cluster", "home"],
        ["node", folder, "--node", "a"],
        ["certificate", folder, "--node", "a", "--host", "127.0.0.1", "--authority", ca],
        ["token", folder],
        ["bundle", ca, "--cluster", "home", "--member", f"{folder}/member.json"],
        ["believe", folder, "--from", ca],
    ):
        assert main(words) == 0
    capsys.readouterr()
    assert main(["show", folder, "--node", "a", "--address", "tcp:127.0.0.1:7700"]) == 0
    printed = capsys.readouterr().out
    target = parse_join(printed.rpartition("join: ")[2].strip())
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "a" / "tls.pem").read_text())
    import hashlib

    assert target.certificate == "sha256:" + hashlib.sha256(der).hexdigest()
    assert (target.address, target.node) == ("tcp:127.0.0.1:7700", "a")
    before = (tmp_path / "a" / "tls.key").read_bytes()
    assert main(["certificate", folder, "--node", "a", "--host", "x", "--authority", ca]) == 2
    assert "zg/host/exists" in capsys.readouterr().err
    assert (tmp_path / "a" / "tls.key").read_bytes() == before


def everything(folder: Path) -> Path:
    """A keys folder with all kinds."""
    folder.mkdir(exist_ok=True)
    add_node_key(folder / "a", "a")
    add_token(folder / "a", os.urandom(32))
    make_authority(folder / "ca", "home")
    make_certificate(folder / "a", "a", ["localhost"], folder / "ca")
    return folder / "a"
