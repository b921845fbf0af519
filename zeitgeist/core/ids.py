"""Names that cross functions in the core. A bare str or int does not (STYLE: Values)."""

from typing import NewType

__all__ = ["CheckId", "Digest", "ErrorId", "Real", "TokenId"]

Digest = NewType("Digest", str)
"""`"sha256:<64 hex>"` for records, `"blake3:<64 hex>"` for content. The prefix is part of the value."""

ErrorId = NewType("ErrorId", str)
"""`zg/<area>/<kebab>`: listed in `core/errors.py`, never reused (A10)."""

CheckId = NewType("CheckId", str)
"""`<family>-<kebab>`, for instance `V-round-trip`."""

TokenId = NewType("TokenId", int)

Real = NewType("Real", str)
"""A real number as text: the shortest decimal that reads back as the same float32, printed as Python prints a float.

Digested records hold no floats (DESIGN §3): two encoders may print one float in two ways, a text has one form."""
