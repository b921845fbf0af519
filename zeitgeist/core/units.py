"""Units as types: bytes, tokens, nanoseconds, instants."""

from typing import NewType

__all__ = ["ByteCount", "Instant", "Nanoseconds", "TokenCount"]

ByteCount = NewType("ByteCount", int)
TokenCount = NewType("TokenCount", int)
Nanoseconds = NewType("Nanoseconds", int)
Instant = NewType("Instant", int)
"""Integer nanoseconds since boot, monotonic. Wall time is another thing: it only decides expiry (DESIGN §2)."""
