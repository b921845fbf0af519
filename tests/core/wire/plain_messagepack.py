"""Canonical MessagePack as docs/spec/wire.md words it, written from that page and not from our codec; ways to break it.

`write(value)` gives the canonical bytes. `write(value, Spoil(place, how))` spoils one place, so that a test can show
each refusal: `places` says how many there are for each way.
"""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["WAYS", "Spoil", "places", "write"]

WAYS = ("long", "swap", "double", "unknown", "trailing")
"""long: a form longer than needed; swap: two keys out of order; double: a key twice; unknown: one field more; trailing:
a byte after the end."""


class Spoil(msgspec.Struct):
    """Spoil the place-th thing (counted down while writing) in this way."""

    place: int
    how: str

    def here(self, how: str) -> bool:
        """True once: at the place."""
        if how != self.how:
            return False
        self.place -= 1
        return self.place == -1


NOWHERE = Spoil(0, "")


def write(value: Any, spoil: Spoil = NOWHERE) -> bytes:
    """MessagePack of None, bool, int, str, bytes, list, dict; keys sorted by their UTF-8 bytes."""
    body = b"".join(pieces(value, spoil))
    return body + (b"\xc0" if spoil.here("trailing") else b"")


def places(value: Any, how: str) -> int:
    """How many places of value can be spoilt in this way."""
    probe = Spoil(1 << 60, how)
    write(value, probe)
    return (1 << 60) - probe.place


def pieces(value: Any, spoil: Spoil) -> Iterator[bytes]:
    """The bytes, piece by piece."""
    if value is None or isinstance(value, bool):
        yield {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    elif isinstance(value, int):
        yield integer(value, spoil.here("long"))
    elif isinstance(value, str):
        raw = value.encode()
        yield sized(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB), spoil.here("long")) + raw
    elif isinstance(value, bytes):
        yield sized(len(value), None, 0, (0xC4, 0xC5, 0xC6), spoil.here("long")) + value
    elif isinstance(value, list | tuple):
        yield sized(len(value), 0x90, 15, (None, 0xDC, 0xDD), spoil.here("long"))
        for one in value:
            yield from pieces(one, spoil)
    else:
        yield from mapping(value, spoil)


def mapping(value: dict[str, Any], spoil: Spoil) -> Iterator[bytes]:
    """A map; the only place where order, doubles and unknown fields can be wrong."""
    items = sorted(value.items(), key=lambda item: item[0].encode())
    if len(items) > 1 and spoil.here("swap"):
        items[0], items[1] = items[1], items[0]
    if items and spoil.here("double"):
        items.insert(0, items[0])
    if spoil.here("unknown"):
        items.append(("~unknown", None))
    yield sized(len(items), 0x80, 15, (None, 0xDE, 0xDF), spoil.here("long"))
    for key, one in items:
        yield from pieces(key, spoil)
        yield from pieces(one, spoil)


def integer(value: int, long: bool) -> bytes:
    """Shortest form: unsigned families from 0 on, signed ones below; long takes the next one, where there is one."""
    families = (
        [(0x7F, 0, "B"), (0xFF, 0xCC, "B"), (0xFFFF, 0xCD, ">H"), (0xFFFFFFFF, 0xCE, ">I"), ((1 << 64) - 1, 0xCF, ">Q")]
        if value >= 0
        else [
            (-32, 0, "b"),
            (-(1 << 7), 0xD0, "b"),
            (-(1 << 15), 0xD1, ">h"),
            (-(1 << 31), 0xD2, ">i"),
            (-(1 << 63), 0xD3, ">q"),
        ]
    )
    fitting = [(code, form) for bound, code, form in families if abs(value) <= abs(bound)]
    code, form = fitting[1] if long and len(fitting) > 1 else fitting[0]
    return (bytes([code]) if code else b"") + struct.pack(form, value)


def sized(count: int, fixed: int | None, fixed_max: int, codes: tuple[int | None, ...], long: bool) -> bytes:
    """The head of a text, bytes, list or map of count."""
    forms: list[bytes] = [bytes([fixed | count])] if fixed is not None and count <= fixed_max else []
    for code, form, most in zip(codes, ("B", ">H", ">I"), (0xFF, 0xFFFF, 0xFFFFFFFF), strict=True):
        if code is not None and count <= most:
            forms.append(bytes([code]) + struct.pack(form, count))
    return forms[1] if long and len(forms) > 1 else forms[0]
