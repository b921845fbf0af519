"""`make docs`: the tables of docs/spec, made from the code; `--check` says which are stale and exits 1 (X1)."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["PAGES", "main"]

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from markdown_pages import header, linked, table  # noqa: E402 - beside this file


def errors() -> str:
    """Every error id with fault, definiteness, cause and remedy (A10)."""
    from zeitgeist.core.errors import REGISTRY

    rows = [
        [f"`{s.id}`", s.fault, "yes" if s.definite else "no", s.cause, s.remedy]
        for s in sorted(REGISTRY.values(), key=lambda s: s.id)
    ]
    text = "*Fault* says who is wrong; *definite* that the refused thing surely did not happen.\n\n"
    return (
        header("Errors", "zeitgeist/core/error_table.py")
        + text
        + table(["id", "fault", "definite", "cause", "remedy"], rows)
    )


def precision() -> str:
    """The precision rule of every ordered pair of dtypes (C3)."""
    from zeitgeist.core.formats.dtype import DTYPES, precision_rule

    names = list(DTYPES)
    rows = [[f"`{a}`", *(precision_rule(a, b) for b in names)] for a in names]
    text = "Row: source, column: target.\n\n"
    return header("Precision rules", "zeitgeist/core/formats/dtype.py") + text + table(["from \\ to", *names], rows)


def records() -> str:
    """Fields of every record that is digested, sent or recorded; those of messages are in messages.md (A1–A7)."""
    import inspect

    import msgspec
    from wire_docs import words

    from zeitgeist.core import trace
    from zeitgeist.core.descriptors import backend, cache, link, model, node, plan, sampling, trust
    from zeitgeist.core.formats import kv, quant, tensor
    from zeitgeist.core.formats.canonical import Record

    out = header("Records", "zeitgeist/core/descriptors and zeitgeist/core/formats")
    for module in (node, trust, link, plan, sampling, backend, cache, model, kv, quant, tensor, trace):
        for name in module.__all__:
            kind = getattr(module, name)
            if not (inspect.isclass(kind) and issubclass(kind, Record)):
                continue
            out += f"## {name}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n\n"
            rows = [
                [f"`{f.name}`", words(f.type), "required" if f.required else "has a default"]
                for f in msgspec.inspect.type_info(kind).fields
            ]
            out += (table(["field", "value", ""], rows) if rows else "No fields.\n") + "\n"
    return linked(out)


def checks() -> str:
    """Every certification check: clause, level, what it needs, motive (W1)."""
    from certify.registry import load_checks

    rows = [
        [f"`{c.id}`", c.family, c.clause, c.level, ", ".join(c.needs) or "–", c.expectation, c.motive or "–"]
        for c in load_checks().values()
    ]
    return header("Checks", "certify/checks") + table(
        ["check", "family", "clause", "level", "needs", "expectation", "motive"], rows
    )


def limits() -> str:
    """Every bound with its reason."""
    from zeitgeist.core.limits import LIMITS

    rows = [[f"`{limit.name}`", f"{limit.value:,}", limit.unit, limit.reason] for limit in LIMITS]
    return header("Limits", "zeitgeist/core/limits.py") + table(["limit", "value", "unit", "reason"], rows)


def tolerances() -> str:
    """Every tolerance of the standard profile with its source (W1)."""
    from certify.profile import load_profile

    rows = [[f"`{key}`", f"{t.value:g}", t.unit, t.source] for key, t in load_profile().tolerances.items()]
    return header("Tolerances", "certify/profiles/standard.toml") + table(["key", "value", "unit", "source"], rows)


def mutants() -> str:
    """Every planted bug and the family meant to catch it (W4)."""
    from certify.mutants.bank import MUTANTS

    rows = [[f"`{m.name}`", m.group, ", ".join(m.families), m.about, m.motive or "–"] for m in MUTANTS]
    return header("Mutants", "certify/mutants") + table(
        ["mutant", "group", "caught by", "the bug", "seen in the wild"], rows
    )


def transfer_states() -> str:
    """States, events and moves of a transfer, from the table that the machine runs (E4)."""
    from zeitgeist.core.transfer import states as s

    text = "One diagram a side. Moves that change no state are left out here and stand in the table.\n\n"
    names = list(s.STATES)
    for side, own in (("Sender", names[: names.index("waiting")]), ("Receiver", names[names.index("waiting") :])):
        moves: dict[tuple[str, str], list[str]] = {}
        for (before, event), after in s.TRANSITIONS.items():
            if before in own and before != after:
                moves.setdefault((before, after), []).append(event)
        lines = [f"    [*] --> {own[0]}"]
        lines += [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in moves.items()]
        lines += [f"    {state} --> [*]" for state in own if s.is_final(state)]
        text += f"## {side}\n\n```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n\n"
        text += table(["state", "meaning"], [[f"`{state}`", s.STATES[state]] for state in own]) + "\n"
    text += "## Events\n\n" + table(["event", "what it is"], [[f"`{name}`", about] for name, about in s.EVENTS.items()])
    text += "\n## Every move\n\nWhat is not here is refused: `zg/transfer/wrong-state`.\n\n"
    rows = [[f"`{before}`", f"`{event}`", f"`{after}`"] for (before, event), after in s.TRANSITIONS.items()]
    return header("Transfer states", "zeitgeist/core/transfer/states.py") + text + table(["in", "on", "then"], rows)


def session_states() -> str:
    """States, events and moves of a link's session, from the table that the machine runs (B1)."""
    from zeitgeist.core.session import states as s

    moves: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in s.STEPS.items():
        if before != after:
            moves.setdefault((before, after), []).append(event)
    lines = ["    [*] --> greeting"]
    lines += [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in moves.items()]
    ends = ", ".join(s.ENDS)
    text = (
        f"Two roles walk one table. Besides what is drawn, each open state ends in `closed` by {ends}.\n\n"
        "```mermaid\nstateDiagram-v2\n" + "\n".join([*lines, f"    draining --> closed: {ends}", "    closed --> [*]"])
    )
    text += "\n```\n\n" + table(
        ["state", "meaning", "phase of a refusal"],
        [[f"`{state}`", about, s.PHASES[state]] for state, about in s.STATES.items()],
    )
    rows = [[f"`{event}`", s.HEARD_BY.get(event, "both"), about] for event, about in s.EVENTS.items()]
    text += "\n## Events\n\n" + table(["event", "role", "what it is"], rows)
    text += "\n## Every move\n\nWhat is not here is refused: `zg/session/out-of-order`.\n\n"
    rows = [[f"`{before}`", f"`{event}`", f"`{after}`"] for (before, event), after in s.TRANSITIONS.items()]
    return header("Session states", "zeitgeist/core/session/states.py") + text + table(["in", "on", "then"], rows)


def job_states() -> str:
    """States, events and moves of a job, from the table that its three roles run (E4)."""
    from zeitgeist.core.job import states as s

    moves: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in s.TRANSITIONS.items():
        if before != after and event not in ("fail", "cancel"):
            moves.setdefault((before, after), []).append(event)
    lines = ["    [*] --> proposed"]
    lines += [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in moves.items()]
    lines += [f"    {state} --> [*]" for state in s.TERMINAL]
    text = "Besides what is drawn, each live state ends in `failed` by fail and in `cancelled` by cancel.\n\n"
    text += "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n\n"
    text += table(["state", "meaning"], [[f"`{state}`", about] for state, about in s.SENTENCES.items()])
    text += "\n## Events\n\n" + table(
        ["event", "what it is"], [[f"`{name}`", about] for name, about in s.EVENTS.items()]
    )
    text += "\n## Every move\n\nWhat is not here is refused: `zg/job/out-of-turn`.\n\n"
    rows = [[f"`{before}`", f"`{event}`", f"`{after}`"] for (before, event), after in s.TRANSITIONS.items()]
    return header("Job states", "zeitgeist/core/job/states.py") + text + table(["in", "on", "then"], rows)


def worker_states() -> str:
    """States, events and moves of an attempt in a worker, from the table that runs (E4)."""
    from zeitgeist.core.generate import states as s

    lines = ["    [*] --> queued"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in s.TRANSITIONS.items()]
    text = "```mermaid\nstateDiagram-v2\n" + "\n".join([*lines, "    gone --> [*]"]) + "\n```\n\n"
    text += table(["state", "meaning"], [[f"`{state}`", about] for state, about in s.SENTENCES.items()])
    events = [[f"`{name}`", about] for name, about in s.EVENTS.items()]
    text += "\n## Events\n\n" + table(["event", "what it is"], events)
    text += "\n## Every move\n\nA move that is not here is our own defect: the worker ends.\n\n"
    rows = [[f"`{before}`", f"`{event}`", f"`{after}`"] for (before, event), after in s.TRANSITIONS.items()]
    return header("Worker states", "zeitgeist/core/generate/states.py") + text + table(["in", "on", "then"], rows)


def trace() -> str:
    """Requirement → clause → test → code (X5)."""
    import traceability

    return traceability.render(traceability.rows())


def wire_pages() -> dict[str, Callable[[], str]]:
    """Messages, a schema for each, and the dissector."""
    from functools import partial

    import wire_docs

    schemas = {f"schemas/{name}.json": partial(wire_docs.schema, name) for name in wire_docs.schema_names()}
    return {"messages.md": wire_docs.messages, "zeitgeist.lua": wire_docs.dissector, **schemas}


def left_behind() -> list[Path]:
    """Schemas of messages that are no more."""
    folder = ROOT / "docs" / "spec" / "schemas"
    return [path for path in sorted(folder.glob("*")) if f"schemas/{path.name}" not in PAGES]


PAGES: dict[str, Callable[[], str]] = {
    "errors.md": errors,
    "precision.md": precision,
    "records.md": records,
    "limits.md": limits,
    "checks.md": checks,
    "tolerances.md": tolerances,
    "mutants.md": mutants,
    "session-states.md": session_states,
    "transfer-states.md": transfer_states,
    "job-states.md": job_states,
    "worker-states.md": worker_states,
    "traceability.md": trace,
    **wire_pages(),
}


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, name stale pages, exit 1 when any")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="only these, by name under docs/spec")
    arguments = parser.parse_args()
    check, stale = arguments.check, []
    for name in arguments.pages or PAGES:
        path, text = ROOT / "docs" / "spec" / name, PAGES[name]()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for path in left_behind():
        stale.append(f"schemas/{path.name}")
        if not check:
            path.unlink()
    print(f"docs: {'stale' if check else 'wrote'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
