"""Where results lie: DIR/<subject>/{records.jsonl, certificate.json, summary.json, …}, and the room for them.

Law: whether the directory can be written is found out before an engine is started, and a full disk is said in one line.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import msgspec

from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError

__all__ = ["DURATIONS", "FULL", "LOCK", "ROOM_BYTES", "durations_of", "holding", "make_out", "subject_dir", "writing"]

ROOM_BYTES = 20 << 20
"""20 MiB: note §4 sets that as the size of a standard run's evidence."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room: of the disk, of the user, of the process (a limit set in the shell)."""

LOCK = ".lock"
"""A file of its own: a directory cannot be locked on every network file system. It stays; removing it would race."""


DURATIONS = "durations.json"
"""Wall seconds of each case, beside its records and not in them: no two runs have the same, and nothing judges them."""


def durations_of(folder: Path) -> dict[str, float]:
    """Case -> seconds as measured, for people; empty where nobody wrote them or they cannot be read."""
    try:
        return msgspec.json.decode((folder / DURATIONS).read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError):
        return {}


def subject_dir(out: Path, subject: str) -> Path:
    """DIR/llama_cpp_fa for llama_cpp:fa; a name that could leave DIR cannot."""
    return out / "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in subject).lstrip(".")


def make_out(out: Path, room: int = ROOM_BYTES) -> None:
    """Make the directory and prove that it can be written and has room bytes free."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".zg-"):
            free = shutil.disk_usage(out).free
    except OSError as error:
        raise refused(out, error) from error
    if free < room:
        raise ZeitgeistError("zg/certify/no-space", f"{out} has {free >> 20} MiB free, wanted {room >> 20} MiB", "out")


def refused(out: Path, error: OSError) -> ZeitgeistError:
    """A full disk, or a directory that cannot be written."""
    if error.errno in FULL:
        return ZeitgeistError("zg/certify/no-space", f"{out}: {error.strerror}", "out")
    return LocalProtocolError("zg/certify/out-dir", f"{out}: {error.strerror or error}", "out")


@contextlib.contextmanager
def writing(out: Path) -> Generator[None, None, None]:
    """Around every write of results."""
    try:
        yield
    except OSError as error:
        raise refused(out, error) from error


@contextlib.contextmanager
def holding(out: Path) -> Generator[None, None, None]:
    """out belongs to this run until it ends, however it ends. A second run at once is refused (`zg/certify/busy`)."""
    with writing(out):
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with writing(out):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalProtocolError("zg/certify/busy", f"another run is writing into {out}", "out") from None
        yield
    finally:
        os.close(descriptor)
