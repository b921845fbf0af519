"""A JSON file of a model directory: read with a size limit, fields taken with their type checked (R3, A10).

Law: a field that is absent, of the wrong type or out of range is refused with file and field; booleans are not
integers. Nothing is read but a regular file, and of it no more than the limit, whatever its size is said to be.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from zeitgeist.convert.regular_file import open_regular
from zeitgeist.core.errors import RemoteProtocolError, refuse

__all__ = ["JSON_BYTES_MAX", "SIZE_MAX", "JsonFields", "read_json", "read_text"]

JSON_BYTES_MAX = 64 << 20
"""64 MiB: the largest public tokenizer.json is under 40 MB."""
SIZE_MAX = (1 << 31) - 1
"""No dimension of a model reaches 2^31; larger ones are damage."""


class JsonFields:
    """A JSON object with its file name, for errors that say where."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def wrong(self, name: str, wanted: str) -> RemoteProtocolError:
        """The refusal of one field."""
        got = repr(self.values[name]) if name in self.values else "nothing"
        return refuse("zg/model/bad-config", f"{self.where}: {name}", got, wanted)

    def get(self, name: str) -> Any:
        """The value, None when absent or null."""
        return self.values.get(name)

    def size(self, name: str, default: int | None = None, most: int = SIZE_MAX) -> int:
        """A whole number from 1 to most."""
        value = default if self.get(name) is None and default is not None else self.get(name)
        if type(value) is not int or not 0 < value <= most:
            raise self.wrong(name, f"a whole number from 1 to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number that is finite and above 0 in float32 too: engines compute with it there."""
        value = default if self.get(name) is None and default is not None else self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < float32_of(value) < math.inf:
            raise self.wrong(name, "a finite number above 0, in float32 too")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = default if self.get(name) is None else self.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """A text; half of a surrogate pair, which JSON can escape, is none."""
        value = self.get(name)
        if not isinstance(value, str) or not is_utf8(value):
            raise self.wrong(name, "a text")
        return value

    def items(self, name: str) -> list[Any]:
        """A list."""
        value = self.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def fields(self, name: str) -> "JsonFields":
        """An object inside."""
        value = self.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return JsonFields(value, f"{self.where}: {name}")


def read_json(path: Path) -> JsonFields:
    """Read one object. `zg/model/bad-config` when missing, too long, not JSON or not an object.

    Duplicate keys refused.
    """
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("zg/model/bad-config", f"it is not JSON: {error!s:.120}", path.name) from error
    if not isinstance(value, dict):
        raise refuse("zg/model/bad-config", path.name, type(value).__name__, "a JSON object")
    return JsonFields(value, path.name)


def read_text(path: Path) -> str:
    """The text of a file. `zg/model/bad-config` when missing, too long or not UTF-8, `zg/model/unreadable` else."""
    try:
        with open_regular(path) as file:
            data = file.read(JSON_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise RemoteProtocolError(
            "zg/model/bad-config", f"there is no such file in {path.parent.name}/", path.name
        ) from error
    except OSError as error:
        raise RemoteProtocolError("zg/model/unreadable", str(error.strerror or error), str(path)) from error
    if len(data) > JSON_BYTES_MAX:
        raise refuse("zg/model/bad-config", path.name, "more bytes", f"at most {JSON_BYTES_MAX}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("zg/model/bad-config", f"it is not UTF-8: {error.reason}", path.name) from error


def float32_of(value: float) -> float:
    """The float32 nearest to value, infinite when it is out of range: a whole number of JSON may have 400 digits."""
    try:
        return struct.unpack("<f", struct.pack("<f", float(value)))[0]
    except OverflowError:
        return math.inf


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that stands twice is refused: readers differ on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
