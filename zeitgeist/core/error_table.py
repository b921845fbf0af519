"""The rows of the error registry: (id, fault, definite, cause, remedy). Ids are never reused; add, do not rename.

One file, so that two areas cannot take one id. Grouped by area, alphabetical inside a group.
"""

from typing import Literal

__all__ = ["ROWS"]

Row = tuple[str, Literal["peer", "caller", "host", "us"], bool, str, str]

BACKEND: list[Row] = [
    ("zg/backend/cancelled", "caller", False, "the call was cancelled between two prefill chunks",
     "send it again if it is still wanted"),
    ("zg/backend/failed", "host", False, "the engine raised an error of its own",
     "read the engine's message in the detail; repeat the command printed beside it"),
    ("zg/backend/not-installed", "host", True, "the engine's Python package cannot be imported",
     "install the extra that the message names, for instance: pip install 'zeitgeist[torch]'"),
    ("zg/backend/no-such-session", "caller", True, "the session was closed or never opened", "open a session first"),
    ("zg/backend/unknown", "caller", True, "no backend has this name",
     "`zg-certify subjects` lists built-in names, variants and entry points"),
    ("zg/backend/unsupported", "caller", True, "the backend does not claim this capability",
     "ask `describe` what it claims; pick a backend that claims it"),
]

ROWS: list[Row] = [*BACKEND]
