"""A JSON file of a model directory: read with a size limit, fields taken with their type checked (R3, A10).

Law: a field that is absent, of the wrong type or out of range is refused with file and field; booleans are not
integers.
"""

import json
import math
from pathlib import Path
from typing import Any

from zeitgeist.core.errors import RemoteProtocolError, refuse

__all__ = ["JSON_BYTES_MAX", "JsonFields", "read_json"]

JSON_BYTES_MAX = 64 << 20
"""64 MiB: the largest public tokenizer.json is under 40 MB."""
SIZE_MAX = 1 << 31
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

    def size(self, name: str, default: int | None = None) -> int:
        """A positive whole number below 2^31."""
        value = default if self.get(name) is None and default is not None else self.get(name)
        if type(value) is not int or not 0 < value < SIZE_MAX:
            raise self.wrong(name, "a whole number from 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = default if self.get(name) is None and default is not None else self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.wrong(name, "a finite number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = default if self.get(name) is None else self.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """A text."""
        value = self.get(name)
        if not isinstance(value, str):
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
    try:
        size = path.stat().st_size
        if size > JSON_BYTES_MAX:
            raise refuse("zg/model/bad-config", path.name, f"{size} bytes", f"at most {JSON_BYTES_MAX}")
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        raise RemoteProtocolError(
            "zg/model/bad-config", f"there is no such file in {path.parent.name}/", path.name
        ) from error
    except OSError as error:
        raise RemoteProtocolError("zg/model/unreadable", str(error.strerror or error), str(path)) from error
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("zg/model/bad-config", f"it is not JSON: {error!s:.120}", path.name) from error
    if not isinstance(value, dict):
        raise refuse("zg/model/bad-config", path.name, type(value).__name__, "a JSON object")
    return JsonFields(value, path.name)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that stands twice is refused: readers differ on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
