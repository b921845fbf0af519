"""Units as types: bytes, tokens, nanoseconds."""

from typing import NewType

__all__ = ["ByteCount", "Nanoseconds", "TokenCount"]

ByteCount = NewType("ByteCount", int)
TokenCount = NewType("TokenCount", int)
Nanoseconds = NewType("Nanoseconds", int)
