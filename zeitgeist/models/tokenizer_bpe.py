"""Byte-level byte-pair encoding in pure Python: text → ids and back (T, A3).

Law: what the tokenizer's data do not settle is refused by name, never guessed: another pre-tokeniser, a normaliser, a
byte without a token, merges that lead nowhere. Ids agree token for token with the Hugging Face `tokenizers` library and
with llama.cpp; no token is added at the start or the end.
"""

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError
from zeitgeist.models.pretokenise import gpt2_pieces

__all__ = ["BYTE_TO_CHARACTER", "CHARACTER_TO_BYTE", "BpeTokenizer", "token_bytes_of"]


def byte_characters() -> dict[int, str]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


BYTE_TO_CHARACTER = byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
CACHED_PIECES_MAX = 16_384
CACHED_PIECE_CHARACTERS_MAX = 64
"""Pieces repeat as words do; a long run of blanks is not kept."""


def token_bytes_of(token: str, where: str) -> bytes:
    """The bytes that a token of the vocabulary stands for; `zg/model/bad-tokenizer` when it has foreign characters."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in token)
    except KeyError as error:
        raise RemoteProtocolError(
            "zg/model/bad-tokenizer", f"token {token!r:.60} is not byte-level: {error}", where
        ) from error


@dataclass(frozen=True)
class BpeTokenizer:
    """A tokenizer as data, and what it does.

    tokens: texts by id as in the file (byte-level, specials as themselves); token_bytes: bytes by id; merges in rank
    order; specials: control tokens by text; added: other tokens matched in text before anything else; where: file, for
    errors.
    """

    tokens: tuple[str, ...]
    token_bytes: tuple[bytes, ...]
    merges: tuple[tuple[str, str], ...]
    specials: dict[str, int]
    added: dict[str, int] = field(default_factory=dict)
    chat_template: str = ""
    bos: int | None = None
    eos: int | None = None
    where: str = "tokenizer"

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """Ids of text. specials: texts of control tokens become these tokens, else they are plain text."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise LocalProtocolError(
                "zg/model/bad-tokenizer", f"the text holds a lone surrogate: {error.reason}", "text"
            ) from error
        known = {**self.added, **(self.specials if specials else {})}
        if not known:
            return self.encode_plain(text)
        longest_first = sorted(known, key=lambda token: (-len(token), token))
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        return [
            id for index, part in enumerate(parts) for id in ([known[part]] if index % 2 else self.encode_plain(part))
        ]

    def encode_plain(self, text: str) -> list[int]:
        """Ids of text without any added token."""
        return [id for piece in gpt2_pieces(text) for id in self.encode_piece(piece)]

    def decode(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids; partial UTF-8 is returned as it is.

        `zg/model/bad-tokenizer` for an id outside the vocabulary.
        """
        for id in ids:
            if not 0 <= id < len(self.token_bytes):
                raise LocalProtocolError(
                    "zg/model/bad-tokenizer", f"got token {id}, wanted 0 to {len(self.token_bytes) - 1}", "ids"
                )
        return b"".join(self.token_bytes[id] for id in ids)

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        """Ids of one piece of the pre-tokeniser."""
        return self.cached_piece(piece) if len(piece) <= CACHED_PIECE_CHARACTERS_MAX else self.merge(piece.encode())

    @cached_property
    def cached_piece(self) -> Callable[[str], tuple[int, ...]]:
        """`merge` of short pieces, remembered."""
        return lru_cache(maxsize=CACHED_PIECES_MAX)(lambda piece: self.merge(piece.encode()))

    @cached_property
    def ids_by_token(self) -> Mapping[str, int]:
        """Id by text, without added tokens: their texts have no part in merging."""
        outside = {*self.specials.values(), *self.added.values()}
        return {token: id for id, token in enumerate(self.tokens) if id not in outside}

    @cached_property
    def byte_ids(self) -> tuple[int, ...]:
        """Id of each of the 256 bytes."""
        missing = [byte for byte in range(256) if BYTE_TO_CHARACTER[byte] not in self.ids_by_token]
        if missing:
            raise RemoteProtocolError("zg/model/bad-tokenizer", f"byte {missing[0]} has no token", self.where)
        return tuple(self.ids_by_token[BYTE_TO_CHARACTER[byte]] for byte in range(256))

    @cached_property
    def ranks(self) -> Mapping[tuple[int, int], tuple[int, int]]:
        """(left id, right id) → (rank, merged id); all three must be in the vocabulary."""
        table: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            ids = [self.ids_by_token.get(token) for token in (left, right, left + right)]
            if any(id is None for id in ids):
                raise RemoteProtocolError(
                    "zg/model/bad-tokenizer", f"merge {rank} {left!r:.30} {right!r:.30} leads to no token", self.where
                )
            table.setdefault((ids[0], ids[1]), (rank, ids[2]))  # pyright: ignore[reportArgumentType]
        return table

    def merge(self, data: bytes) -> tuple[int, ...]:
        """Join the pair of lowest rank, leftmost first, until none is left.

        N log n, so that a long run is no attack.
        """
        ids = [self.byte_ids[byte] for byte in data]
        after, before = list(range(1, len(ids) + 1)), list(range(-1, len(ids) - 1))
        alive = [True] * len(ids)
        queue: list[tuple[int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left]
            if right < len(ids) and (found := self.ranks.get((ids[left], ids[right]))):
                heapq.heappush(queue, (found[0], left, ids[left], ids[right]))

        for index in range(len(ids)):
            offer(index)
        while queue:
            _, left, left_id, right_id = heapq.heappop(queue)
            right = after[left]
            if not alive[left] or ids[left] != left_id or right >= len(ids) or ids[right] != right_id:
                continue  # a neighbour was merged since this pair was offered
            ids[left] = self.ranks[left_id, right_id][1]
            alive[right] = False
            after[left] = after[right]
            if after[left] < len(ids):
                before[after[left]] = left
            offer(left)
            if before[left] >= 0:
                offer(before[left])
        return tuple(id for id, kept in zip(ids, alive, strict=True) if kept)
