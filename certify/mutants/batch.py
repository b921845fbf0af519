"""Mutants of batches and of sessions side by side."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from certify.mutants.plant import plant
from zeitgeist.backends.base import Session
from zeitgeist.backends.reference import ReferenceBackend, ReferenceSession
from zeitgeist.backends.reference_model import LayerCache
from zeitgeist.backends.reference_variants import Blocked

__all__ = [
    "claims_invariance",
    "fork_shares_state",
    "noise_between_runs",
    "row_leaks_to_neighbour",
    "rows_permuted",
    "stale_result",
    "wrong_from_five",
]

F32 = NDArray[Any]


class ClaimsInvariance(Blocked):
    """Matrix products whose sums depend on the batch, said to be bitwise invariant."""

    batch_invariant: ClassVar[bool] = True
    chunk_invariant: ClassVar[bool] = True


class Leaks(ReferenceBackend):
    """A thousandth of a row's logits is in the row of its neighbour."""

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        rows = super().decode(sessions, ids)
        return rows if len(rows) == 1 else rows + np.float32(1e-3) * np.roll(rows, 1, axis=0)


class Permutes(ReferenceBackend):
    """The rows of a batch come back in the order in which the engine sorted them: longest first."""

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        rows = super().decode(sessions, ids)
        return rows[::-1].copy()


class WrongFromFive(ReferenceBackend):
    """Another kernel is taken from five rows on, and its last row is the first one's."""

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        rows = super().decode(sessions, ids)
        if len(rows) >= 5:
            rows[-1] = rows[0]
        return rows


class Stale(ReferenceBackend):
    """A replayed graph returns the rows of the call before when the batch has the size that it had then."""

    last: F32 | None = None

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        rows, old = super().decode(sessions, ids), self.last
        self.last = rows if old is None or old.shape != rows.shape else None
        return rows if old is None or old.shape != rows.shape else old


class SharesState(ReferenceBackend):
    """A fork has its parent's caches, not copies."""

    def fork(self, session: Session) -> ReferenceSession:
        child = super().fork(session)
        child.cache = list[LayerCache](self.held(session).cache)
        return child


class Noisy(ReferenceBackend):
    """The order of some sums depends on the clock: the last bit of one logit flips in every eleventh call."""

    calls = 0

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> F32:
        rows = super().decode(sessions, ids)
        self.calls += 1
        if self.calls % 11 == 0:
            rows[0, 0] = np.nextafter(rows[0, 0], np.float32(np.inf))
        return rows


claims_invariance = plant(model=ClaimsInvariance)
row_leaks_to_neighbour = plant(backend=Leaks)
rows_permuted = plant(backend=Permutes)
wrong_from_five = plant(backend=WrongFromFive)
stale_result = plant(backend=Stale)
fork_shares_state = plant(backend=SharesState)
noise_between_runs = plant(backend=Noisy)
