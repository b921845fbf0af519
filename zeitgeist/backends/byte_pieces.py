"""Byte-level BPE vocabularies: from the pieces an engine's tokenizer prints to exact bytes, and from data to a tokenizer.

A byte-level vocabulary writes byte 0x20 as `Ġ` and so on, so that every piece is a text. Law: detokenising never goes
through UTF-8 decoding: the bytes of a cut character are returned as they are.
"""

from collections.abc import Sequence
from typing import Any

from zeitgeist.core.errors import LocalProtocolError, refuse

__all__ = ["BYTE_OF", "OwnTokenizer", "piece_bytes"]


def byte_alphabet() -> dict[str, int]:
    """Character to byte, as GPT-2 laid it down: printable bytes stand for themselves, the rest follow from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}


BYTE_OF = byte_alphabet()


def piece_bytes(piece: str) -> bytes:
    """The bytes of one vocabulary piece; a piece outside the alphabet is not byte-level and is refused."""
    try:
        return bytes(BYTE_OF[character] for character in piece)
    except KeyError as error:
        raise refuse("zg/backend/not-serving", "tokenizer", f"piece {piece!r}", "a byte-level BPE vocabulary") from error


class OwnTokenizer:
    """A Hugging Face fast tokenizer, or mlx-lm's wrapper of one, as the contract wants it: no BOS, specials as text.

    tokenizer: anything with `encode(text, add_special_tokens=, split_special_tokens=)`, `convert_ids_to_tokens` and
    `added_tokens_decoder`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.added = {int(i): str(token).encode() for i, token in tokenizer.added_tokens_decoder.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of text; special-token strings are cut like any other text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> bytes:
        """Exact bytes, id by id; an id without a piece is refused."""
        return b"".join(self.added.get(token) or self.bytes_of(token) for token in ids)

    def bytes_of(self, token: int) -> bytes:
        piece = self.tokenizer.convert_ids_to_tokens(token) if token >= 0 else None
        if piece is None:
            raise LocalProtocolError("zg/backend/bad-request", f"id {token} has no token", "ids")
        return piece_bytes(piece)
