"""Content addresses: BLAKE3 over bytes, token ids, layers and trees. Integrity and identity, never authenticity.

Law: every digest that is not over bare content starts with a domain of its own, so that two kinds of thing never share
one. Records are digested by `canonical.digest` instead (A9).
"""

import struct
from collections.abc import Sequence
from typing import TypeAlias

import blake3

from zeitgeist.core.errors import refuse
from zeitgeist.core.ids import Digest

__all__ = ["Bytes", "content_digest", "layer_digest", "merkle_root", "require_digest", "tokens_digest"]

Bytes: TypeAlias = bytes | bytearray | memoryview
"""Contiguous memory. Of an array pass `.data`."""

TOKENS_DOMAIN = b"zg-tokens\x00"
LEAF_DOMAIN = b"\x00"
NODE_DOMAIN = b"\x01"


def content_digest(*buffers: Bytes) -> Digest:
    """`blake3:` of the buffers one after another; where one ends and the next begins is not covered."""
    if len(buffers) == 1 and type(buffers[0]) is bytes:
        return Digest("blake3:" + blake3.blake3(buffers[0]).hexdigest())
    return named(hash_of(b"", *buffers))


def layer_digest(k: Bytes, v: Bytes) -> Digest:
    """Digest of one cache layer: the valid rows of K, then those of V, raw (DESIGN §4); shapes fix the boundary."""
    return content_digest(k, v)


def tokens_digest(ids: Sequence[int]) -> Digest:
    """Digest of token ids: the domain `zg-tokens`, then little-endian int32. Ids outside int32 are refused."""
    try:
        raw = struct.pack(f"<{len(ids)}i", *ids)
    except struct.error as error:
        raise refuse("zg/format/bad-token-id", "ids", error, "integers that fit in int32") from error
    return named(hash_of(TOKENS_DOMAIN, raw))


def merkle_root(leaves: Sequence[Bytes]) -> Digest:
    """Root of the tree of RFC 6962 §2.1 with BLAKE3: leaves and nodes have domains of their own; order counts.

    No leaves: the hash of nothing, as the RFC says.
    """
    return named(subtree([hash_of(LEAF_DOMAIN, leaf) for leaf in leaves]) if leaves else hash_of(b""))


def require_digest(text: str, field: str) -> Digest:
    """text as a digest: `sha256:` or `blake3:` and 64 lower-case hex digits; anything else is refused naming field."""
    kind, _, body = text.partition(":")
    if kind not in ("sha256", "blake3") or len(body) != 64 or not set(body) <= set("0123456789abcdef"):
        raise refuse("zg/format/bad-digest", field, text, "sha256: or blake3: and 64 lower-case hex digits")
    return Digest(text)


def subtree(hashes: list[bytes]) -> bytes:
    """Root over hashes of leaves. Level by level: pairing neighbours and carrying an odd last is the RFC's split."""
    while len(hashes) > 1:
        paired = [hash_of(NODE_DOMAIN, a, b) for a, b in zip(hashes[::2], hashes[1::2], strict=False)]
        hashes = [*paired, *hashes[2 * len(paired) :]]
    return hashes[0]


def hash_of(domain: bytes, *buffers: Bytes) -> bytes:
    """32 bytes of BLAKE3 over domain and buffers. An empty view is skipped: it cannot be cast to bytes."""
    hasher = blake3.blake3(domain)
    for buffer in buffers:
        view = memoryview(buffer)
        if view.nbytes:
            hasher.update(view.cast("B"))
    return hasher.digest()


def named(raw: bytes) -> Digest:
    """The digest with its prefix."""
    return Digest("blake3:" + raw.hex())
