"""What a side must have said before anything is concluded from it (B3), and what both must say alike (A8).

Law: nothing is assumed for a side that is silent. Each missing or unknown word is a reason of its own that names the
party and the field; all are given, never the first alone.
"""

from collections.abc import Iterator

import msgspec

from zeitgeist.core.descriptors.backend import BACKEND_CLASSES, CAPABILITIES, BackendDescriptor
from zeitgeist.core.descriptors.node import ModelOffer, NodeDescriptor, SchemaVersions
from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS
from zeitgeist.core.errors import DETAIL_CHARACTERS_MAX, FIELD_CHARACTERS_MAX, bounded
from zeitgeist.core.formats.canonical import Record, digest
from zeitgeist.core.formats.dtype import DTYPES
from zeitgeist.core.formats.kv import CacheForm
from zeitgeist.core.formats.quant import SCHEMAS
from zeitgeist.core.wire.messages import Reason

__all__ = ["Side", "engines_of", "mismatches", "own_versions", "reason", "undeclared", "version_reasons"]


class Side(Record, frozen=True, kw_only=True):
    """All that one side declared: phase 2 and phase 3. local: its worker or its parent, over a socket pair."""

    descriptor: NodeDescriptor
    models: tuple[ModelOffer, ...]
    local: bool = False


def own_versions() -> SchemaVersions:
    """The six schema versions of this build."""
    return SchemaVersions(**SCHEMA_VERSIONS)


def version_reasons(theirs: SchemaVersions, ours: SchemaVersions) -> Iterator[Reason]:
    """Every schema whose versions differ, both named (A8)."""
    for field in SchemaVersions.__struct_fields__:
        a, b = getattr(theirs, field), getattr(ours, field)
        if a != b:
            yield reason(id="zg/version/mismatch", detail=f"theirs is {a}, ours is {b}", field=f"versions.{field}")


def engines_of(side: Side) -> dict[str, BackendDescriptor]:
    """Backends by the name that an offer gives: the digest; and "" for the speaker's only one."""
    backends = side.descriptor.backends
    named: dict[str, BackendDescriptor] = {digest(backend): backend for backend in backends}
    return named | {"": backends[0]} if len(backends) == 1 else named


def undeclared(side: Side) -> Iterator[Reason]:
    """What this side left out, or said in words that nobody defined."""
    descriptor = side.descriptor
    node = descriptor.node
    for field in ("cluster", "roles", "transports", "auth"):
        if not getattr(descriptor, field):
            yield silent(f"{node}.{field}")
    if "executor" in descriptor.roles:
        if not descriptor.backends:
            yield silent(f"{node}.backends")
        # A worker may be started before it is told which model to load.
        if not side.models and not side.local:
            yield silent(f"{node}.models")
    for index, backend in enumerate(descriptor.backends):
        yield from undeclared_of(backend, f"{node}.backends[{index}]")
    known = engines_of(side)
    for index, offer in enumerate(side.models):
        where = f"{node}.models[{index}]"
        if offer.engine not in known:
            yield undefined(f"{where}.engine", offer.engine or "none", "the digest of a declared backend")
        for field in ("artifact", "model", "tokenizer", "vocabulary"):
            if not getattr(offer.descriptor, field):
                yield silent(f"{where}.descriptor.{field}")


def undeclared_of(backend: BackendDescriptor, where: str) -> Iterator[Reason]:
    """The same for one backend."""
    for field in ("name", "version", "classes", "capabilities"):
        if not getattr(backend, field):
            yield silent(f"{where}.{field}")
    for word in backend.classes:
        if word not in BACKEND_CLASSES:
            yield undefined(f"{where}.classes", word, ", ".join(BACKEND_CLASSES))
    for word in backend.capabilities:
        if word not in CAPABILITIES:
            yield undefined(f"{where}.capabilities", word, ", ".join(CAPABILITIES))
    for index, form in enumerate(backend.cache_forms):
        yield from undeclared_form(form, f"{where}.cache_forms[{index}]")


def undeclared_form(form: CacheForm, where: str) -> Iterator[Reason]:
    """Element types and block schemas that nobody defined."""
    for side, element in (("k", form.k), ("v", form.v)):
        if element.quant:
            if element.quant not in SCHEMAS:
                yield undefined(f"{where}.{side}.quant", element.quant, ", ".join(SCHEMAS))
        elif element.dtype not in DTYPES:
            yield undefined(f"{where}.{side}.dtype", element.dtype or "none", ", ".join(DTYPES))


def mismatches(dialler: Side, acceptor: Side) -> Iterator[Reason]:
    """What both had to say alike and did not."""
    a, b = dialler.descriptor, acceptor.descriptor
    yield from (
        msgspec.structs.replace(unlike, detail=f"{a.node} has {theirs}, {b.node} has {ours}")
        for unlike, theirs, ours in differing(a.versions, b.versions)
    )
    if a.cluster != b.cluster:
        yield differ("zg/negotiate/other-cluster", "cluster", a.cluster, b.cluster)
    if a.node == b.node:
        yield reason(id="zg/negotiate/same-node", detail=f"both sides are {a.node[:64]}", field="node")
    if a.transports and b.transports and not any(word in b.transports for word in a.transports):
        yield differ("zg/negotiate/no-common-transport", "transports", ", ".join(a.transports), ", ".join(b.transports))


def differing(a: SchemaVersions, b: SchemaVersions) -> Iterator[tuple[Reason, int, int]]:
    """The reasons of `version_reasons` with both numbers."""
    for unlike in version_reasons(a, b):
        field = unlike.field.removeprefix("versions.")
        yield unlike, getattr(a, field), getattr(b, field)


def reason(id: str, detail: str, field: str = "") -> Reason:
    """A reason that always fits its record, whatever a peer put into the words that it quotes."""
    return Reason(id=id, detail=bounded(detail, DETAIL_CHARACTERS_MAX), field=bounded(field, FIELD_CHARACTERS_MAX))


def silent(field: str) -> Reason:
    """Nothing was declared."""
    return reason(id="zg/negotiate/undeclared", detail="nothing is declared", field=field)


def undefined(field: str, got: str, wanted: str) -> Reason:
    """Something was declared that means nothing here."""
    return reason(id="zg/negotiate/undefined", detail=f"got {got[:80]}, wanted {wanted[:160]}", field=field)


def differ(id: str, field: str, dialler: str, acceptor: str) -> Reason:
    """The two sides' words."""
    return reason(id=id, detail=f"the dialler says {dialler[:200]}, the acceptor says {acceptor[:200]}", field=field)
