"""An engine's own tokenizer, as the contract wants it: no token added, special strings as text, exact bytes back.

Law: detokenising never goes through UTF-8 decoding or clean-up: the bytes of a cut character are returned as they are.
"""

from collections.abc import Sequence
from typing import Any

from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.models.tokenizer_bpe import token_bytes_of

__all__ = ["OwnTokenizer"]


class OwnTokenizer:
    """A Hugging Face fast tokenizer, or mlx-lm's wrapper of one, over a byte-level BPE vocabulary.

    tokenizer: anything with `encode(text, add_special_tokens=, split_special_tokens=)`, `convert_ids_to_tokens` and
    `added_tokens_decoder`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.added = {int(i): str(token).encode() for i, token in tokenizer.added_tokens_decoder.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of text; special-token strings are cut like any other text."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise LocalProtocolError("zg/backend/bad-request", "a lone surrogate, wanted what UTF-8 can write", "text")
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> bytes:
        """Exact bytes, id by id; an id without a token is refused."""
        return b"".join(self.added.get(token) or self.bytes_of(token) for token in ids)

    def bytes_of(self, token: int) -> bytes:
        text = self.tokenizer.convert_ids_to_tokens(token) if token >= 0 else None
        if text is None:
            raise LocalProtocolError("zg/backend/bad-request", f"id {token} has no token", "ids")
        return token_bytes_of(text, "tokenizer")
