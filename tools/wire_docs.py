"""What `make docs` makes from the registry of messages: their page, a JSON Schema each, tshark's dissector (G4, G5)."""

import inspect as python_inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from markdown_pages import header, linked, table
from msgspec import inspect

__all__ = ["dissector", "kebab", "messages", "schema", "schema_names", "words"]

ROOT = Path(__file__).resolve().parent.parent


def kebab(name: str) -> str:
    """`NodeDescriptor` as `node-descriptor`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def words(info: inspect.Type) -> str:
    """A type and its bounds as a reader of another language needs them."""
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "nothing"
        case inspect.IntType():
            return "integer" + span(info.ge, info.le)
        case inspect.StrType():
            pattern = f" `{info.pattern}`" if info.pattern else ""
            return "text" + size(info, "characters") + pattern
        case inspect.BytesType():
            return "bytes" + size(info, "")
        case inspect.LiteralType():
            return "one of " + ", ".join(f"`{value}`" for value in info.values)
        case inspect.StructType():
            return f"[{info.cls.__name__}](#{info.cls.__name__.lower()})"
        case inspect.UnionType():
            return " or ".join(words(one) for one in info.types)
        case inspect.VarTupleType():
            return f"list{size(info, '')} of {words(info.item_type)}"
        case inspect.TupleType():
            return "list of exactly: " + ", ".join(words(one) for one in info.item_types)
        case inspect.DictType():
            return f"map{size(info, '')} from {words(info.key_type)} to {words(info.value_type)}"
        case _:
            raise AssertionError(f"no words for {info}")


def span(low: int | None, high: int | None) -> str:
    """Inclusive bounds."""
    if low is None and high is None:
        return ""
    return f", at least {low}" if high is None else f", {low} to {high}"


def size(info: Any, unit: str) -> str:
    """Bounds of a length."""
    low, high = info.min_length or 0, info.max_length
    if high is None:
        return f", {low} or more {unit}".rstrip() if low else ""
    amount = f"{low}" if low == high else f"{low} to {high}"
    return f", {amount} {unit}".rstrip()


def parts(info: inspect.Type) -> Iterator[inspect.StructType]:
    """Records inside a type, outermost first."""
    match info:
        case inspect.StructType():
            yield info
            for field in info.fields:
                yield from parts(field.type)
        case inspect.UnionType():
            for one in info.types:
                yield from parts(one)
        case inspect.VarTupleType():
            yield from parts(info.item_type)
        case inspect.TupleType():
            for one in info.item_types:
                yield from parts(one)
        case inspect.DictType():
            yield from parts(info.value_type)
        case _:
            return


def fields_of(info: inspect.StructType) -> str:
    """One record: what it is, then its fields."""
    rows = [[f"`{info.tag_field}`", f"always `{info.tag}`"]] if info.tag else []
    rows += [[f"`{field.encode_name}`", words(field.type)] for field in info.fields]
    text = f"### {info.cls.__name__}\n\n{python_inspect.cleandoc(info.cls.__doc__ or '')}\n\n"
    return text + (table(["field", "value"], rows) if rows else "No fields.\n") + "\n"


def messages() -> str:
    """The registry: number, record, channel, who hears it, when, from whom, with content or not; then all fields."""
    from zeitgeist.core.wire.registry import REGISTRY

    rows = [
        [
            f"`0x{row.kind:04x}`",
            f"[{row.record.__name__}](#{row.record.__name__.lower()})",
            " ".join(channel.name.lower() for channel in row.channels),
            row.machine,
            " ".join(row.states) or "any",
            " ".join(row.trust) or "anyone",
            "may follow" if row.content else "–",
            f"[schema](schemas/{kebab(row.record.__name__)}.json)",
        ]
        for row in REGISTRY.values()
    ]
    out = header("Messages", "zeitgeist/core/wire/registry.py")
    out += (
        "Rules of layout and encoding: [wire.md](wire.md). A kind that is not here is refused. *Heard by*: the\n"
        "machine; *in*: states of the link; *from*: trust levels, any one is enough; *content*: bytes beside the\n"
        "record. Every field stands in the bytes, also at its default.\n\n"
    )
    out += table(["number", "record", "channel", "heard by", "in", "from", "content", ""], rows)
    tops = [inspect.type_info(row.record) for row in REGISTRY.values()]
    inner: dict[type, inspect.StructType] = {}
    for top in tops:
        for part in list(parts(top))[1:]:
            inner.setdefault(part.cls, part)
    out += "\n## Fields of messages\n\n" + "".join(
        fields_of(top) for top in tops if isinstance(top, inspect.StructType)
    )
    out += "## Records inside messages\n\n" + "".join(map(fields_of, inner.values()))
    return linked(out.rstrip() + "\n")


def schema_names() -> list[str]:
    """One for each row: `hello` …"""
    from zeitgeist.core.wire.registry import KINDS

    return [kebab(kind.__name__) for kind in KINDS]


def schema(name: str) -> str:
    """JSON Schema of one message as JSON has it: bytes as base64. All fields are required: all stand in the bytes."""
    from zeitgeist.core.wire.registry import KINDS

    kind, row = next((kind, row) for kind, row in KINDS.items() if kebab(kind.__name__) == name)
    body = msgspec.json.schema(kind)
    for part in body["$defs"].values():
        part["required"] = sorted(part["properties"])
        part["description"] = python_inspect.cleandoc(part.get("description", ""))
        for one in part["properties"].values():
            one.pop("default", None)
    body = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated by make docs from zeitgeist/core/wire/messages.py; do not edit. "
        f"Kind 0x{row.kind:04x} on {', '.join(channel.name.lower() for channel in row.channels)}.",
        **body,
    }
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def dissector() -> str:
    """tshark's dissector in Lua: the template's text with the names of this registry."""
    from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS
    from zeitgeist.core.limits import FRAME_HEADER_BYTES
    from zeitgeist.core.wire.frame import MAGIC, Channel, Flag
    from zeitgeist.core.wire.payload import CONTENT_CHANNELS
    from zeitgeist.core.wire.registry import REGISTRY

    def lua(entries: dict[int, str]) -> str:
        return "{ " + ", ".join(f"[{key}] = {value}" for key, value in entries.items()) + " }"

    names = {
        "MAGIC": f'"{MAGIC.decode()}"',
        "HEADER_BYTES": str(FRAME_HEADER_BYTES),
        "VERSION": str(SCHEMA_VERSIONS["protocol"]),
        "CHANNELS": lua({channel.value: f'"{channel.name.lower()}"' for channel in Channel}),
        "CONTENT_CHANNELS": lua({channel.value: "true" for channel in CONTENT_CHANNELS}),
        "KINDS": lua({row.kind: f'"{row.record.__name__}"' for row in REGISTRY.values()}),
        "FLAGS": lua({flag.value: f'"{str(flag.name).lower()}"' for flag in Flag}),
    }
    text = (ROOT / "tools" / "dissector.lua").read_text()
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    return (
        "-- Generated by make docs from tools/dissector.lua and zeitgeist/core/wire/registry.py; do not edit.\n" + text
    )
