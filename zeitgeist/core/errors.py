"""The one registry of errors: id, who is wrong, whether it is definite, cause, remedy (A10).

Law: an error is raised with an id from `REGISTRY` and the field it is about. A definite error says that the refused
thing surely did not happen. `zg explain ID` prints a row; `docs/spec/errors.md` is generated from this table.
Errors carry values in `args`, so that they can be rebuilt on the other side of a socket.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from zeitgeist.core.error_table import ROWS
from zeitgeist.core.ids import ErrorId
from zeitgeist.core.protocol_errors import PROTOCOL_ROWS

__all__ = [
    "DETAIL_CHARACTERS_MAX",
    "FIELD_CHARACTERS_MAX",
    "REGISTRY",
    "ErrorSpec",
    "Fault",
    "LocalProtocolError",
    "RemoteProtocolError",
    "ZeitgeistError",
    "bounded",
    "refuse",
]

FIELD_CHARACTERS_MAX = 200
"""A file name and a tensor name of 90 fit. Longer ones come from a stranger who wants a line of megabytes."""
DETAIL_CHARACTERS_MAX = 1000
"""`refuse` makes 260 at most; a list of reasons may be longer. Both together fit in any frame."""

Fault = Literal["peer", "caller", "host", "us"]
"""Who is wrong: the other side, our caller, the machine we run on, or our own code."""


class ErrorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what an id means and what a person does about it."""

    id: ErrorId
    fault: Fault
    definite: bool
    cause: str
    remedy: str


REGISTRY: Mapping[ErrorId, ErrorSpec] = {
    ErrorId(row[0]): ErrorSpec(id=ErrorId(row[0]), fault=row[1], definite=row[2], cause=row[3], remedy=row[4])
    for row in (*ROWS, *PROTOCOL_ROWS)
}


class ZeitgeistError(Exception):
    """Base of all errors a user may see. `str()` is one line: what, where, what would be right.

    id: a key of `REGISTRY`; field: the field, file or flag refused ("" when none); detail: got and wanted, in words.
    Both may quote a stranger's bytes, so both are cut and made UTF-8: an error must always be able to travel.
    """

    def __init__(self, id: str, detail: str, field: str = "") -> None:
        if id not in REGISTRY:
            raise AssertionError(f"error id {id} is not in core/error_table.py")
        detail, field = bounded(detail, DETAIL_CHARACTERS_MAX), bounded(field, FIELD_CHARACTERS_MAX)
        super().__init__(id, detail, field)
        self.id = ErrorId(id)
        self.detail = detail
        self.field = field

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.detail} [{self.id}]"

    @property
    def spec(self) -> ErrorSpec:
        """The registry row of this error."""
        return REGISTRY[self.id]


class RemoteProtocolError(ZeitgeistError):
    """The peer, the file or the model is wrong. Answered with the error's id."""


class LocalProtocolError(ZeitgeistError):
    """Our caller is wrong. Raised before anything was sent or written."""


def bounded(text: str, characters_max: int) -> str:
    """Text cut to characters_max, the cut shown by "…"; lone surrogates, which UTF-8 cannot hold, as escapes.

    What is short and clean comes back unchanged, so to bound twice is to bound once.
    """
    text = text[: characters_max + 1].encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def refuse(id: str, field: str, got: object, wanted: object) -> RemoteProtocolError:
    """The usual refusal: names the field, what came and what would be right. Values are cut at 80 characters."""
    return RemoteProtocolError(id, f"got {str(got)[:80]}, wanted {str(wanted)[:160]}", field)
