"""How logits are judged: against the oracle that rounds where the engine says it does, in its band (families N, G).

Law: float32 engines are judged elementwise (max abs, worst row), because top-1 and KL do not see one wrong
head; lossy ones by KL and top-1 against an oracle with the same losses, because their rounding is chaotic and honest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from certify import tolerance
from certify.case import Case
from certify.oracle import Oracle, OracleOptions
from certify.profile import Profile
from zeitgeist.core.descriptors.backend import BackendDescriptor

__all__ = ["Floor", "angle_floor", "fidelity_limit", "judge_logits", "oracle_like"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


QUERY_PARTNERS = {"ggml_q4_0": "ggml_q8_0"}
"""ggml multiplies Q4_0 keys with queries rounded to Q8_0 (measured: 1e-2 logit from this oracle, 2.5 from any other);
F16 and Q8_0 keys with queries of their own kind."""


def oracle_like(oracle: Oracle, descriptor: BackendDescriptor) -> Oracle:
    """The oracle with the losses that the descriptor declares: activations rounded, K and V rounded when written.

    A float32 cache in band x16 is read as float16 and queries are not rounded: 1.5e-3 logit, against 6e-3 if they were.
    """
    if not descriptor.cache_forms:
        return oracle.with_options(OracleOptions(activations=descriptor.activations))
    form = descriptor.cache_forms[0]
    kind = form.k.quant or ("" if form.k.dtype == "f32" else form.k.dtype)
    lossy_attention = descriptor.band == "x16" and kind == ""
    return oracle.with_options(
        OracleOptions(
            kv_round="f16" if lossy_attention else kind,
            kv_hadamard=form.k.hadamard,
            kv_interleaved=form.pairing == "interleaved",
            query_round=QUERY_PARTNERS.get(kind, kind),
            activations=descriptor.activations,
        )
    )


def fidelity_limit(profile: Profile, expected: F64, floor: float = 0.0) -> float:
    """max(4 × floor, 64·2⁻²⁴·max|logit|): the bound of DESIGN §4. expected: the oracle's logits."""
    ulp = profile["fidelity.ulp"] * float(np.abs(expected).max())
    return max(profile["fidelity.floor_factor"] * floor, ulp)


@dataclass(frozen=True)
class Floor:
    """What an honest float32 engine loses. absolute: max abs in logits; units: worst row in u = 2^-24."""

    absolute: float
    units: float


def angle_floor(oracle: Oracle, ids: Sequence[int], expected: F64) -> Floor:
    """What rounding the rotary angles to float32 costs on these ids: the worse of the two honest ways.

    expected: the oracle's own last rows. An angle p·f is off by about p·2⁻²⁴, so this floor grows with the position
    (measured on every engine: research note, section 6); it is computed, not taken from the engine under test.
    """
    twins = [
        oracle.with_options(replace(oracle.options, angles=way)).logits(ids)[-len(expected) :]
        for way in ("direct", "iterated")
    ]
    return Floor(
        max(tolerance.max_abs(expected, twin) for twin in twins),
        max(tolerance.worst_row(twin, expected).units for twin in twins),
    )


def judge_logits(case: Case, oracle: Oracle, descriptor: BackendDescriptor, found: F32, ids: Sequence[int]) -> None:
    """Compare logits `[rows, vocab]` of the last rows of ids in the band of the descriptor; fails through the case."""
    profile = case.profile
    oracle = oracle_like(oracle, descriptor)
    expected = oracle.logits(ids)[-len(found) :]
    band = descriptor.band if descriptor.activations == "" else "x16" if descriptor.band == "x32" else descriptor.band
    largest = tolerance.max_abs(expected, found)
    units = case.worst_row(found, expected, 24 if band == "x32" else 11)
    if band == "x32":
        floor = angle_floor(oracle, ids, expected)
        case.measured("floor of float32 angles", floor.absolute, "logit")
        case.within("max abs", largest, fidelity_limit(profile, expected, floor.absolute), "fidelity.ulp", "logit")
        limit = max(profile["numerics.worst_row_x32"], profile["fidelity.floor_factor"] * floor.units)
        case.within("worst row", units, limit, "numerics.worst_row_x32", "u")
    else:
        case.measured("max abs", largest, "logit")
        case.measured("worst row", units, "u = 2^-11")
    loss = lossy_floor(oracle, ids, expected)
    case.measured("KL that the declared rounding costs", loss, "nat")
    limit = max(profile[f"numerics.kld_{band}"], profile["numerics.floor_factor"] * loss)
    case.within("mean KL", tolerance.mean_kl(expected, found), limit, f"numerics.kld_{band}", "nat")
    same, counted = tolerance.top1(expected, found, profile[f"numerics.near_tie_{band}"])
    case.measured("top-1 rows counted", counted)
    if counted:
        case.at_least("top-1", same, profile[f"numerics.top1_{band}"], f"numerics.top1_{band}")


def lossy_floor(oracle: Oracle, ids: Sequence[int], expected: F64) -> float:
    """Mean KL between the oracle with the declared rounding of cache and queries and the one without; 0 when none is.

    Rounding is chaotic: two engines that round alike part by what the rounding costs, so this is the noise floor.
    """
    if not oracle.options.kv_round:
        return 0.0
    plain = oracle.with_options(replace(oracle.options, kv_round="", query_round="", kv_hadamard=0)).logits(ids)
    return tolerance.mean_kl(plain[-len(expected) :], expected)
