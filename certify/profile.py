"""Profiles: every tolerance with its unit and source, and the table of levels, under one digest (W2).

Law: a number without a source is refused, a key that the file does not have is refused, and the digest covers every
value, unit, source and level, not the comments.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from zeitgeist.core.errors import LocalProtocolError

__all__ = ["STANDARD", "Profile", "Tolerance", "load_profile"]

STANDARD = Path(__file__).parent / "profiles" / "standard.toml"


@dataclass(frozen=True)
class Tolerance:
    """value in `unit`, and where the number comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Profile:
    """One profile file. `profile["cache.uncached_x32"]` is the number; `tolerances` has unit and source.

    levels: kind -> ((level, families it adds), …) from low to high; foreign: level -> foreign engines wanted.
    """

    name: str
    version: int
    digest: str
    tolerances: Mapping[str, Tolerance]
    levels: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]
    level_names: Mapping[str, str]
    foreign: Mapping[str, int]

    def __contains__(self, key: str) -> bool:
        return key in self.tolerances

    def __getitem__(self, key: str) -> float:
        if key not in self.tolerances:
            raise LocalProtocolError("zg/certify/bad-profile", f"profile {self.name} has no tolerance {key!r}", key)
        return self.tolerances[key].value


def load_profile(path: Path | str = STANDARD) -> Profile:
    """Read a profile file (TOML); refuse unknown keys, missing sources and numbers that are not finite."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LocalProtocolError("zg/certify/bad-profile", f"{path}: {error}", "profile") from error
    return parse_profile(data, str(path))


def parse_profile(data: dict[str, Any], where: str) -> Profile:
    """Check the parsed file field by field."""
    extra = sorted(set(data) ^ {"name", "version", "tolerance", "levels", "names", "foreign"})
    if extra:
        raise bad(where, f"unknown or missing: {', '.join(extra)}")
    tolerances = {
        key: parse_tolerance(where, key, row) for key, row in cast("dict[str, Any]", data["tolerance"]).items()
    }
    levels = {
        kind: tuple((level, tuple(str(f) for f in families)) for level, families in table.items())
        for kind, table in cast("dict[str, dict[str, list[str]]]", data["levels"]).items()
    }
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Profile(
        name=str(data["name"]),
        version=int(data["version"]),
        digest="sha256:" + hashlib.sha256(canonical.encode()).hexdigest(),
        tolerances=tolerances,
        levels=levels,
        level_names=dict(data["names"]),
        foreign=dict(data["foreign"]),
    )


def parse_tolerance(where: str, key: str, row: object) -> Tolerance:
    """One `[tolerance."key"]` table."""
    if not isinstance(row, dict) or set(cast("dict[str, Any]", row)) != {"value", "unit", "source"}:
        raise bad(where, f"{key}: wanted exactly value, unit and source")
    fields = cast("dict[str, Any]", row)
    value, unit, source = fields["value"], fields["unit"], fields["source"]
    if not isinstance(value, float) or not 0 <= value < float("inf"):
        raise bad(where, f"{key}: got value {value!r}, wanted a finite real that is not negative")
    if not isinstance(unit, str) or not isinstance(source, str) or len(source) < 12:
        raise bad(where, f"{key}: a tolerance needs a source in words")
    return Tolerance(value, unit, source)


def bad(where: str, detail: str) -> LocalProtocolError:
    """The refusal of a profile file."""
    return LocalProtocolError("zg/certify/bad-profile", f"{where}: {detail}", "profile")
