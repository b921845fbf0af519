"""Mutants of position: base, scaling, pairing, offset, chunks, rotations too many or too few."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from certify.mutants.plant import plant
from zeitgeist.backends.base import CacheArrays, LayerRange
from zeitgeist.backends.reference import ReferenceBackend, ReferenceSession
from zeitgeist.backends.reference_model import LayerCache, ReferenceModel
from zeitgeist.convert.rope import repair

__all__ = [
    "angles_in_f16",
    "interleaved_in",
    "interleaved_model",
    "keys_rotated_again_in",
    "llama3_as_linear",
    "offset_after_import",
    "partial_rotary",
    "positions_restart",
    "rotated_twice",
    "scaling_ignored",
    "theta_default",
    "values_rotated",
]

F32 = NDArray[Any]


class ThetaDefault(ReferenceModel):
    """The base is 10,000, whatever the configuration says."""

    def frequencies(self, theta: float, factors: F32) -> NDArray[np.float64]:
        return super().frequencies(10_000.0, factors)


class ScalingIgnored(ReferenceModel):
    """Rope scaling in the configuration is not read."""

    def frequencies(self, theta: float, factors: F32) -> NDArray[np.float64]:
        return super().frequencies(theta, np.ones_like(factors))


class Llama3AsLinear(ReferenceModel):
    """Llama 3 scaling divides every frequency by the factor, as linear scaling does."""

    def frequencies(self, theta: float, factors: F32) -> NDArray[np.float64]:
        return super().frequencies(theta, np.full_like(factors, factors.max()))


class Interleaved(ReferenceModel):
    """Rotates the pairs (2i, 2i + 1) of weights that were trained with (i, i + D/2)."""

    def rotate(self, x: F32, cosine: F32, sine: F32) -> F32:
        return repair(super().rotate(repair(x, "interleaved", "half"), cosine, sine), "half", "interleaved")


class Twice(ReferenceModel):
    """Queries and keys are rotated twice: once in the projection, once in attention."""

    def rotate(self, x: F32, cosine: F32, sine: F32) -> F32:
        return super().rotate(super().rotate(x, cosine, sine), cosine, sine)


class Partial(ReferenceModel):
    """Only the first half of the pairs is rotated: partial rotary on a model that has none."""

    def frequencies(self, theta: float, factors: F32) -> NDArray[np.float64]:
        full = super().frequencies(theta, factors)
        full[len(full) // 2 :] = 0.0
        return full


class Restart(ReferenceModel):
    """Positions start again at 0 in each chunk of 64."""

    def angles(self, positions: NDArray[np.int64]) -> tuple[F32, F32]:
        return super().angles(positions % 64)


class CoarseAngles(ReferenceModel):
    """Cosine and sine come from a float16 table."""

    def angles(self, positions: NDArray[np.int64]) -> tuple[F32, F32]:
        cosine, sine = super().angles(positions)
        return cosine.astype(np.float16).astype(np.float32), sine.astype(np.float16).astype(np.float32)


class RotatesValues(ReferenceModel):
    """Values are rotated like keys when they are projected: the key's code, copied."""

    def append(self, cache: LayerCache, k: F32, v: F32) -> None:
        positions = np.arange(cache.count, cache.count + len(v))
        super().append(cache, k, self.rotate(v, *self.angles(positions)))


class Turns(ReferenceBackend):
    """Imported keys are turned by some positions; 0 leaves them."""

    def turned(self, k: F32, positions: NDArray[np.int64]) -> F32:
        """k `[position, kv_head, head_dim]` as these positions would rotate it further."""
        return self.model.rotate(k.astype(np.float32), *self.model.angles(positions))

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        positions = self.extra(np.arange(cache.position_count))
        keys = [self.turned(k[: cache.position_count], positions) for k in cache.k]
        return super().import_cache(CacheArrays(cache.form, keys, cache.v, cache.position_count), layers)

    def extra(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions to turn by."""
        return 0 * positions


class OffsetAfterImport(Turns):
    """The offset after an import is one too far: old keys lie one position behind where they should."""

    def extra(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full_like(positions, -1)


class RotatesAgain(Turns):
    """Imported keys are taken for keys before rotation, and rotated again."""

    def extra(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return positions


class ImportsInterleaved(ReferenceBackend):
    """Keys in half-split pairs are re-paired on import as if they were interleaved."""

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> ReferenceSession:
        keys = [repair(k, "interleaved", "half") for k in cache.k]
        return super().import_cache(CacheArrays(cache.form, keys, cache.v, cache.position_count), layers)


theta_default = plant(model=ThetaDefault)
scaling_ignored = plant(model=ScalingIgnored)
llama3_as_linear = plant(model=Llama3AsLinear)
interleaved_model = plant(model=Interleaved)
rotated_twice = plant(model=Twice)
partial_rotary = plant(model=Partial)
positions_restart = plant(model=Restart)
angles_in_f16 = plant(model=CoarseAngles)
values_rotated = plant(model=RotatesValues)
offset_after_import = plant(backend=OffsetAfterImport)
keys_rotated_again_in = plant(backend=RotatesAgain)
interleaved_in = plant(backend=ImportsInterleaved)
