"""Honest variants of the reference arithmetic: other orders of summation that real engines use.

Each is right within float32 rounding and says truthfully what its order does to bitwise invariance. Certify uses them
as controls that must never be flagged, and as proof that its tolerances do not depend on one order of summation.
"""

import itertools
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zeitgeist.backends.reference_model import ReferenceModel

__all__ = ["ARITHMETICS", "Blocked", "DoubleAccumulate", "OnlineSoftmax16", "OnlineSoftmax64", "Pairwise", "SplitK"]

F32 = NDArray[Any]


class Blocked(ReferenceModel):
    """Matrix times matrix by BLAS: the fast way, whose sums depend on the number of rows."""

    batch_invariant: ClassVar[bool] = False
    chunk_invariant: ClassVar[bool] = False

    def matmul(self, x: F32, weight: F32) -> F32:
        return x @ weight.T


class DoubleAccumulate(ReferenceModel):
    """Products and sums in float64, rounded to float32 once for each output."""

    def matmul(self, x: F32, weight: F32) -> F32:
        wide = weight.astype(np.float64)
        return np.matmul(wide, x.astype(np.float64)[:, :, None])[:, :, 0].astype(np.float32)


class Pairwise(ReferenceModel):
    """Products in float32, then NumPy's pairwise sum: no fused multiply-add."""

    def matmul(self, x: F32, weight: F32) -> F32:
        return np.stack([np.sum(weight * row, axis=1, dtype=np.float32) for row in x])


class SplitK(ReferenceModel):
    """The inner dimension in `parts` partial sums that are added in order, as GPU kernels split K."""

    parts: ClassVar[int] = 4

    def matmul(self, x: F32, weight: F32) -> F32:
        edges = np.linspace(0, x.shape[1], self.parts + 1, dtype=int)
        total = np.zeros((x.shape[0], weight.shape[0]), np.float32)
        for start, stop in itertools.pairwise(edges):
            total += super().matmul(x[:, start:stop], weight[:, start:stop])
        return total


class OnlineSoftmax16(ReferenceModel):
    """Attention over blocks of keys with a running maximum and sum, as flash attention does."""

    block: ClassVar[int] = 16

    def attend(self, query: F32, keys: F32, values: F32) -> F32:
        highest = np.full((*query.shape[:2], 1), -np.inf, np.float32)
        total = np.zeros_like(highest)
        mixed = np.zeros_like(query)
        for start in range(0, keys.shape[1], self.block):
            part = slice(start, start + self.block)
            scores = np.matmul(query, keys[:, part].swapaxes(1, 2)) * self.scale()
            higher = np.maximum(highest, scores.max(axis=-1, keepdims=True))
            shrink, weight = np.exp(highest - higher), np.exp(scores - higher)
            total = total * shrink + weight.sum(axis=-1, keepdims=True)
            mixed = mixed * shrink + np.matmul(weight, values[:, part])
            highest = higher
        return mixed / total


class OnlineSoftmax64(OnlineSoftmax16):
    """The same with blocks of 64 keys."""

    block: ClassVar[int] = 64


ARITHMETICS: dict[str, type[ReferenceModel]] = {
    "rowwise": ReferenceModel,
    "blocked": Blocked,
    "float64-accumulate": DoubleAccumulate,
    "pairwise": Pairwise,
    "split-k": SplitK,
    "online-softmax-16": OnlineSoftmax16,
    "online-softmax-64": OnlineSoftmax64,
}
