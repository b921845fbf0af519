"""Mutants of a stage: what a part of the layers does wrong when the whole is right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certify.mutants.plant import plant
from zeitgeist.backends.base import Session
from zeitgeist.backends.reference import ReferenceBackend, ReferenceSession

__all__ = ["hidden_in_f16", "hidden_normed", "stage_runs_first_layers"]

F32 = NDArray[Any]


class HiddenInF16(ReferenceBackend):
    """Hidden rows leave a stage through float16."""

    def forward_range(self, session: Session, x: Sequence[int] | F32) -> F32:
        rows = super().forward_range(session, x)
        last = session.layers.stop == self.model.config.layer_count
        return rows if last else rows.astype(np.float16).astype(np.float32)


class HiddenNormed(ReferenceBackend):
    """A stage that is not the last applies the final norm to what it sends on."""

    def forward_range(self, session: Session, x: Sequence[int] | F32) -> F32:
        rows = super().forward_range(session, x)
        last = session.layers.stop == self.model.config.layer_count
        return rows if last else self.model.norm(rows, self.model.weights["norm"])


class RunsFirstLayers(ReferenceBackend):
    """A later stage counts its layers from 0: it runs the first ones of the model."""

    def advance(self, sessions: Sequence[ReferenceSession], x: F32) -> F32:
        first, layers = sessions[0].layers.first, sessions[0].layers
        if first:
            sessions[0].layers = type(layers)(0, layers.stop - first)
        try:
            return super().advance(sessions, x)
        finally:
            sessions[0].layers = layers


hidden_in_f16 = plant(backend=HiddenInF16)
hidden_normed = plant(backend=HiddenNormed)
stage_runs_first_layers = plant(backend=RunsFirstLayers)
