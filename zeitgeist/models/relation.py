"""How one artifact relates to a parent: proven number by number, or only claimed (A3, C4).

Law: `exact`, `rounded` and `quantised` are proofs: every number of the parent was looked at. A name is only a claim.
"""

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import Relation
from zeitgeist.core.ids import Digest
from zeitgeist.models.bundle import ModelBundle
from zeitgeist.models.identity import constants

__all__ = ["relation"]


def relation(child: ModelBundle, parent: ModelBundle) -> Relation:
    """What child is to parent. Reads both whole.

    exact: equal model digests; rounded: every matrix is the parent's rounded to child's dtype, ties to even, and
    vectors are equal or rounded alike; quantised: every number lies within its block's error bound, vectors equal.
    Otherwise `claimed` when constants and names are the parent's, else `unrelated`. evidence says what was measured.
    """
    of_child, of_parent = child.descriptor(), parent.descriptor()
    if of_child.model == of_parent.model:
        return Relation(kind="exact", parent=of_parent.model, schema=child.weights, evidence="equal model digests")
    if constants(child.config) != constants(parent.config) or tuple(child.names()) != tuple(parent.names()):
        return Relation(kind="unrelated", parent=of_parent.model, evidence="other constants or tensors")
    if not np.array_equal(child.rope_factors(), parent.rope_factors()):
        return Relation(kind="unrelated", parent=of_parent.model, evidence="other rope divisors")
    return compare_tensors(child, parent, of_parent.model)


def compare_tensors(child: ModelBundle, parent: ModelBundle, digest: Digest) -> Relation:
    """Tensor by tensor; the first that no honest way of making child explains decides."""
    farthest, quantised = 0.0, False
    for name in child.names():
        tag, _ = child.raw(name)
        bound, values, wanted = child.block_bound(name), child.tensor(name), parent.tensor(name)
        quantised = quantised or bound is not None
        fraction = distance_in_bounds(values, wanted, bound, tag)
        if not fraction <= 1:
            claimed = child.name == parent.name or child.name.startswith(parent.name + "-")
            return Relation(
                kind="claimed" if claimed else "unrelated",
                parent=digest,
                schema=child.weights,
                evidence=f"{name}: farther from the parent than {tag} can bring it",
            )
        farthest = max(farthest, fraction)
    evidence = f"{len(tuple(child.names()))} tensors, farthest {farthest:.3f} of its bound"
    return Relation(
        kind="quantised" if quantised else "rounded", parent=digest, schema=child.weights, evidence=evidence
    )


def distance_in_bounds(
    values: NDArray[np.float32], wanted: NDArray[np.float32], bound: NDArray[np.float32] | None, tag: str
) -> float:
    """Largest |value - wanted| as a fraction of its bound; 0 for an exact match, infinity where nothing explains it."""
    if bound is None:
        rounded = wanted if tag == "f32" else round_to(tag, wanted)
        return 0.0 if np.array_equal(values, rounded) else np.inf
    blocks = (*bound.shape, values.shape[1] // bound.shape[1])
    distance = np.abs(values.astype(np.float64) - wanted).reshape(blocks).max(axis=2)
    return float(np.max(distance / np.maximum(bound, np.finfo(np.float32).tiny)))


def round_to(tag: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 rounded to f16 or bf16 with ties to even, back as float32. Overflow to infinity stays infinity."""
    if tag == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if tag == "bf16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    raise AssertionError(f"{tag} is neither plain nor quantised")
