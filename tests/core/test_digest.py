"""Digests: their definitions recomputed by hand, and what they must tell apart (A9)."""

import hashlib
import struct

import blake3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.digest import content_digest, layer_digest, merkle_root, require_digest, tokens_digest

pytestmark = pytest.mark.requirement("A9")


def blake(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def split_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 §2.1 as it is written: split at the largest power of two below the count."""
    if len(hashes) == 1:
        return hashes[0]
    cut = 1 << (len(hashes) - 1).bit_length() - 1
    return blake(b"\x01" + split_root(hashes[:cut]) + split_root(hashes[cut:]))


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=50))
def test_a_tokens_digest_is_blake3_of_the_domain_and_int32(ids: list[int]) -> None:
    """DESIGN §4: recomputed from its definition, also from a NumPy array of ids."""
    wanted = blake(b"zg-tokens\0" + b"".join(struct.pack("<i", i) for i in ids)).hex()
    assert tokens_digest(ids) == f"blake3:{wanted}"
    assert tokens_digest(np.array(ids, np.int32)) == f"blake3:{wanted}"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("ids", [[1 << 31], [1.5], ["7"], [None]])
def test_ids_that_are_not_int32_are_refused(ids: list[int]) -> None:
    """Not wrapped, not truncated."""
    with pytest.raises(RemoteProtocolError, match="zg/format/bad-token-id"):
        tokens_digest(ids)


@given(st.lists(st.binary(max_size=9), max_size=40))
def test_a_merkle_root_is_that_of_rfc_6962(leaves: list[bytes]) -> None:
    """Against the RFC's recursive definition; no leaves is the hash of nothing."""
    wanted = split_root([blake(b"\x00" + leaf) for leaf in leaves]) if leaves else blake(b"")
    assert merkle_root(leaves) == f"blake3:{wanted.hex()}"


def test_a_node_cannot_pass_as_a_leaf() -> None:
    """Domain separation: the root of two leaves is not the root of one leaf that holds their hashes."""
    a, b = blake(b"\x00a"), blake(b"\x00b")
    assert merkle_root([b"a", b"b"]) != merkle_root([a + b])
    assert merkle_root([b"a", b"b"]) != merkle_root([b"b", b"a"])


def test_content_may_come_as_any_buffer_even_an_empty_one() -> None:
    """Arrays of any element type, read-only and empty ones; parts are joined."""
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert content_digest(array.data, np.empty((0, 3), np.float32).data) == content_digest(array.tobytes())
    assert layer_digest(b"ab", b"c") == content_digest(b"abc") == f"blake3:{blake(b'abc').hex()}"


@pytest.mark.parametrize(
    "text",
    ["", "blake3:", "md5:" + "0" * 64, "blake3:" + "0" * 63, "blake3:" + "A" * 64, "0" * 64, "blake3:" + "٠" * 64],
)
def test_a_malformed_digest_is_refused_by_field(text: str) -> None:
    """Prefix, length and lower-case ASCII hex are part of the value."""
    with pytest.raises(RemoteProtocolError, match=r"^model: .*zg/format/bad-digest"):
        require_digest(text, "model")
    assert require_digest("sha256:" + hashlib.sha256(b"").hexdigest(), "model")
