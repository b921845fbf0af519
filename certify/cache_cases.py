"""What checks of caches do again and again: fill a session, continue it, see a hostile cache refused (V, F, X).

Law: a refusal is a registered error that names a field; it leaves every session as it was.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from certify import tolerance
from certify.case import Case
from certify.hostile import Vector
from zeitgeist.convert import kv_file
from zeitgeist.convert.kv import KVCache
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.host.workers import Worker, WorkerFailed

__all__ = ["exported", "filled", "refused", "same_rows", "teacher_forced", "unharmed"]

Rows = NDArray[np.float32]


def filled(subject: Worker, ids: Sequence[int], chunk: int = 0) -> int:
    """A new session that holds ids."""
    session = subject.open()
    subject.prefill(session, ids, chunk=chunk, rows="last")
    return session


def exported(subject: Worker, session: int) -> tuple[bytes, KVCache]:
    """(file, what it says) of a session's cache."""
    data = bytes(subject.export_cache(session))
    return data, kv_file.load(data)


def teacher_forced(subject: Worker, session: int, ids: Sequence[int], steps: int = 4) -> Rows:
    """Logits of all ids after a session: the first `steps` decoded one by one, the rest prefilled."""
    rows = [subject.decode([session], [id]) for id in ids[:steps]]
    if len(ids) > steps:
        rows.append(subject.prefill(session, ids[steps:]))
    return np.concatenate(rows)


def same_rows(case: Case, subject: Worker, name: str, found: Rows, wanted: Rows) -> None:
    """Bitwise where the engine claims run-to-run equality, else within cached against uncached."""
    about = subject.describe()
    if about.run_to_run:
        case.exact(name, found, wanted)
        return
    key = "cache.uncached_x32" if about.band == "x32" else "cache.uncached_x16"
    case.within(name, tolerance.max_abs(wanted, found), case.profile[key], key, "logit")


def refused(case: Case, subject: Worker, vector: Vector, ids: Sequence[int]) -> None:
    """The subject must refuse the vector with its id and name its field; a crash is not a refusal."""
    try:
        subject.import_cache(vector.data, ids)
    except WorkerFailed:
        raise
    except ZeitgeistError as error:
        named = bool(error.field) and (
            not vector.field
            or error.field == vector.field
            or error.field.startswith((vector.field + ".", vector.field + "["))
        )
        case.holds(
            vector.name,
            error.id == vector.id and named,
            f"refused: {error}"
            + ("" if error.id == vector.id and named else f"; wanted {vector.id} {vector.field}".rstrip()),
        )
        return
    case.fail(f"{vector.name}: accepted; wanted the refusal {vector.id} {vector.field}".rstrip())


@contextmanager
def unharmed(case: Case, subject: Worker, ids: Sequence[int]) -> Generator[None, None, None]:
    """Around refusals: a session that was open goes on, a new one computes the same bits, and no session was left."""
    kept, twin = filled(subject, ids[:8]), filled(subject, ids[:8])
    wanted = teacher_forced(subject, twin, ids[8:24])
    subject.close(twin)
    counted = "metrics" in subject.describe().capabilities
    before = subject.metrics()["sessions_held"] if counted else 0
    yield
    if counted:
        case.exact("sessions held", subject.metrics()["sessions_held"], before)
    same_rows(case, subject, "an open session afterwards", teacher_forced(subject, kept, ids[8:24]), wanted)
    subject.close(kept)
    fresh = filled(subject, ids[:8])
    same_rows(case, subject, "a new session afterwards", teacher_forced(subject, fresh, ids[8:24]), wanted)
    subject.close(fresh)
