"""Which backends there are, and how a name becomes one (I13).

A name is `torch`, `llama_cpp:kv-f16` (a variant), `custom/vendor/runtime` (an entry point of another package in group
`zeitgeist.backends`) or `package.module:factory` (tests, mutants). Law: listing imports no engine and no foreign code;
foreign code is imported by `create` only, which the worker calls in its own process.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zeitgeist.backends.base import Backend, Variant
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError

__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "BuiltIn", "SubjectName", "create", "list_subjects", "split_name"]

ENTRY_POINT_GROUP = "zeitgeist.backends"


@dataclass(frozen=True)
class BuiltIn:
    """One adapter of ours: its module (import-light: it imports its engine inside the factory) and what it needs."""

    module: str
    engines: tuple[str, ...]
    extra: str
    factory: str = "create"


BUILT_IN: Mapping[str, BuiltIn] = {
    "reference": BuiltIn("zeitgeist.backends.reference", (), ""),
    "torch": BuiltIn("zeitgeist.backends.torch", ("torch", "transformers"), "torch"),
    "mlx": BuiltIn("zeitgeist.backends.mlx", ("mlx", "mlx_lm"), "mlx"),
    "llama_cpp": BuiltIn("zeitgeist.backends.llama_cpp", ("llama_cpp",), "llama"),
}


@dataclass(frozen=True)
class SubjectName:
    """One line of `zg-certify subjects`. missing: packages that cannot be found; extra: what brings them."""

    name: str
    about: str
    origin: str
    missing: tuple[str, ...]
    extra: str

    @property
    def installed(self) -> bool:
        """True when every package it needs can be found; nothing was imported to say so."""
        return not self.missing


def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Foreign backends by name. Two packages with one name, or one that takes a name of ours, are refused."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.name, p.value)):
        ours = BUILT_IN.get(point.name)
        known = (
            f"{ours.module}:{ours.factory}" if ours else found[point.name].value if point.name in found else point.value
        )
        if known != point.value:
            raise RemoteProtocolError(
                "zg/backend/conflict", f"declared as {known} and as {point.value} by {distribution(point)}", point.name
            )
        if ours is None:
            found[point.name] = point
    return found


def distribution(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"


def list_subjects() -> list[SubjectName]:
    """Every backend and variant that can be named here, sorted; engines are looked for, never imported."""
    subjects: list[SubjectName] = []
    for name, built_in in BUILT_IN.items():
        missing = tuple(engine for engine in built_in.engines if importlib.util.find_spec(engine) is None)
        module = importlib.import_module(built_in.module)
        about = (module.__doc__ or name).strip().splitlines()[0]
        subjects.append(SubjectName(name, about, "built-in", missing, built_in.extra))
        subjects += [
            SubjectName(f"{name}:{v.name}", v.about, "built-in", missing, built_in.extra) for v in variants(module)
        ]
    for name, point in entry_points().items():
        top = point.module.split(".")[0]
        missing = () if importlib.util.find_spec(top) else (top,)
        subjects.append(SubjectName(name, point.value, f"entry point of {distribution(point)}", missing, ""))
    return sorted(subjects, key=lambda subject: subject.name)


def variants(module: object) -> Sequence[Variant]:
    return getattr(module, "VARIANTS", ())


def split_name(name: str) -> tuple[str, str, str]:
    """(module, factory, variant) of a name, importing nothing; an unknown one is refused with its neighbours."""
    foreign = entry_points()
    head, _, tail = name.partition(":")
    if head in BUILT_IN:
        return BUILT_IN[head].module, BUILT_IN[head].factory, tail
    if head in foreign:
        return foreign[head].module, foreign[head].attr or "create", tail
    if tail.isidentifier() and all(part.isidentifier() for part in head.split(".")) and found(head):
        return head, tail, ""
    raise unknown(name, [*BUILT_IN, *foreign])


def found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def unknown(name: str, known: Sequence[str]) -> LocalProtocolError:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
    return LocalProtocolError("zg/backend/unknown", f"no backend {name!r}; did you mean {', '.join(close)}?", "backend")


def create(name: str, options: Mapping[str, str]) -> Backend:
    """Import and make the backend name. Options given override those of the variant.

    Errors: `zg/backend/unknown`, `zg/backend/not-installed` (names the extra), what the factory refuses.
    """
    module_name, factory, variant = split_name(name)
    head = name.partition(":")[0]
    try:
        module = importlib.import_module(module_name)
        chosen = {**variant_options(module, head, variant), **options}
        return getattr(module, factory)(chosen)
    except ImportError as error:
        raise not_installed(head, error) from error


def variant_options(module: object, head: str, variant: str) -> Mapping[str, str]:
    if not variant:
        return {}
    known = {v.name: v.options for v in variants(module)}
    if variant not in known:
        raise unknown(f"{head}:{variant}", [f"{head}:{name}" for name in known])
    return known[variant]


def not_installed(head: str, error: ImportError) -> ZeitgeistError:
    built_in = BUILT_IN.get(head)
    remedy = (
        f"pip install 'zeitgeist[{built_in.extra}]'" if built_in and built_in.extra else f"install {error.name or head}"
    )
    return ZeitgeistError(
        "zg/backend/not-installed", f"{head} needs {error.name or 'a package'} ({error}): {remedy}", "backend"
    )
