"""llama.cpp's own tokenizer: text to ids and ids to exact bytes (T, DESIGN §5)."""

import ctypes
from collections.abc import Sequence
from typing import Any

from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError

__all__ = ["detokenize", "tokenize"]


def tokenize(api: Any, vocab: Any, text: str) -> list[int]:
    """Ids of text; nothing added, special-token strings are cut as plain text. A lone surrogate is refused."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        detail = "a lone surrogate, wanted text that UTF-8 can write"
        raise LocalProtocolError("zg/backend/bad-request", detail, "text") from error
    # A token holds at least one byte, so the bytes are room enough.
    ids = (ctypes.c_int32 * max(1, len(data)))()
    count = int(api.llama_tokenize(vocab, data, len(data), ids, len(ids), False, False))
    if count < 0:
        raise ZeitgeistError("zg/backend/failed", f"llama_tokenize wants room for {-count} ids", "tokenize")
    return list(ids[:count])


def detokenize(api: Any, vocab: Any, ids: Sequence[int]) -> bytes:
    """Bytes of checked ids, piece by piece: llama_detokenize would clean up spaces."""
    return b"".join(piece(api, vocab, token) for token in ids)


def piece(api: Any, vocab: Any, token: int) -> bytes:
    room = 64
    while True:
        buffer = ctypes.create_string_buffer(room)
        count = int(api.llama_token_to_piece(vocab, token, buffer, room, 0, True))
        if count >= 0:
            return buffer.raw[:count]
        room = -count
