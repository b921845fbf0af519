"""A recording against the same core: every step done again, the first difference named (V2, V5).

Law: a difference is a value, not an exception: step, time, input, what was wanted, what came. A replay is strict when
the recording was made by the same sources (`require_core`); else it is tolerant and the difference is the report.
"""

from zeitgeist.core.effects import Effects, Input
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import Digest
from zeitgeist.core.recording import End, Entry, Header, Subject, TraceDigest, crash_text
from zeitgeist.core.units import Instant

__all__ = ["Difference", "Replayer", "require_core"]


class Difference(Record, frozen=True, kw_only=True):
    """The first step, from 0, where a replay did something else. about: what differs, `effects.send` …; made: what
    the recording says, where it holds that; got: what the replay did."""

    step: int
    now: Instant
    input: Input
    about: tuple[str, ...]
    wanted: str
    found: str
    made: Effects | None = None
    got: Effects | None = None


class Replayer:
    """A recording against a fresh subject. Give it every entry in order; stop at the first difference."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.trace = TraceDigest()

    def feed(self, entry: Entry) -> Difference | None:
        """Do entry's step again; what is different, or None."""
        step = self.trace.steps
        try:
            got = self.subject.step(entry.input, entry.now)
        except Exception as error:  # noqa: BLE001 - a crash is a finding like any other
            text = crash_text(error)
            return None if text == entry.crash else difference(step, entry, ("crash",), entry.crash, text)
        digest = self.trace.add(entry.now, got)
        if entry.crash:
            return difference(step, entry, ("crash",), entry.crash, "", got)
        if digest != entry.effects:
            return difference(step, entry, parts_of(entry.made, got), entry.effects.hex(), digest.hex(), got)
        if entry.state is not None and (state := self.subject.state_digest()) != entry.state:
            return difference(step, entry, ("state",), entry.state, state, got)
        return None

    def finish(self, end: End) -> None:
        """The recording ended: as many steps, and the same trace, or `zg/trace/different`."""
        if (self.trace.steps, self.trace.value()) != (end.steps, end.trace):
            got = f"{self.trace.steps} steps, {self.trace.value().hex()}"
            raise refuse("zg/trace/different", "trace", got, f"{end.steps} steps, {end.trace.hex()}")


def difference(
    step: int, entry: Entry, about: tuple[str, ...], wanted: str, found: str, got: Effects | None = None
) -> Difference:
    """A difference at step."""
    return Difference(
        step=step,
        now=entry.now,
        input=entry.input,
        about=about,
        wanted=wanted,
        found=found,
        made=entry.made,
        got=got,
    )


def parts_of(made: Effects | None, got: Effects) -> tuple[str, ...]:
    """Which fields of the effects differ, where both are known."""
    if made is None:
        return ("effects",)
    fields = made.__struct_fields__
    return tuple(f"effects.{field}" for field in fields if getattr(made, field) != getattr(got, field)) or ("effects",)


def require_core(header: Header, ours: Digest) -> None:
    """Refuse to replay strictly what other sources recorded (`zg/trace/other-core`), naming both."""
    if header.core != ours:
        raise RemoteProtocolError("zg/trace/other-core", f"recorded by {header.core}, ours is {ours}", "core")
