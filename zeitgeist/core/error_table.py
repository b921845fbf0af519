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

SAFETENSORS: list[Row] = [
    ("zg/safetensors/bad-header", "peer", True, "the header is not one JSON object of tensors, or a key stands twice",
     "write the file again with its tool; the file is damaged or not SafeTensors"),
    ("zg/safetensors/bad-offsets", "peer", True, "tensors overlap, or bytes between them belong to none",
     "write the file again with its tool; the file is damaged"),
    ("zg/safetensors/bad-size", "peer", True, "a tensor's bytes do not equal its shape times its element size",
     "write the file again with its tool; the file is damaged"),
    ("zg/safetensors/header-too-long", "peer", True, "the first 8 bytes claim a header longer than the limit",
     "check that the file is SafeTensors at all"),
    ("zg/safetensors/no-such-tensor", "peer", True, "the file has no tensor of this name",
     "check that the file belongs to this model"),
    ("zg/safetensors/trailing-bytes", "peer", True, "bytes follow the last tensor", "fetch the file again"),
    ("zg/safetensors/truncated", "peer", True, "the file ends before its last tensor", "fetch the file again"),
    ("zg/safetensors/unknown-dtype", "peer", True, "the element type is not one that we know",
     "convert the tensors to one of the types that the message lists"),
    ("zg/safetensors/unreadable", "host", True, "the file cannot be opened", "check the path and its permissions"),
]

ROWS: list[Row] = [*BACKEND, *SAFETENSORS]
