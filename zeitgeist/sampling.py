"""The canonical sampler (DESIGN §5, E5): Gumbel-max over Philox4x32-10 keyed by (seed, position, token id).

Law: a token depends on the logits, the parameters and the absolute position, and on nothing else. No state is carried,
so a sequence that moves to another engine, row or host draws the same noise. Greedy is the case of temperature zero.

Rules at the edges, in the order in which they are applied:
1. logits must be a vector of numbers; NaN and +inf are refused, -inf means "never"; all -inf is refused.
2. temperature 0: the largest logit; among equals the lowest id. The filters and the seed do nothing.
3. temperature T > 0: the logits are divided by T, in float64.
4. top_k k > 0: the first k ids in the order (logit falling, id rising) stay: exactly k, or all but -inf; 0 is off.
5. top_p p < 1: of what is left, renormalised, the shortest prefix in the same order whose probability is >= p stays;
   the token that crosses p stays, and one token always stays (p = 0 is top_k 1); 1 is off.
6. min_p m > 0: of what is left those stay whose (logit - largest logit) / T >= ln m, that is, whose probability is at
   least m times the largest; equality stays; 0 is off.
7. The token is the argmax of logit / T + gumbel(seed, position, id) over what stays; among equals the lowest id.
Log probabilities reported are of the raw logits: natural log, before temperature and filters, computed in float64.
"""

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.sampling import GREEDY, SamplingParams
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.ids import TokenId

__all__ = [
    "GREEDY",
    "SampledToken",
    "SamplingParams",
    "check_params",
    "distribution",
    "gumbel",
    "logprobs",
    "philox4x32",
    "ranked",
    "sample",
]

F64 = NDArray[np.float64]
U32 = NDArray[np.uint32]

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
"""Philox4x32 round multipliers; Salmon et al., SC'11, and philox.h of Random123."""
WEYL = (0x9E3779B9, 0xBB67AE85)
"""Key increments of each round: the golden ratio and sqrt(3) - 1 in 32 bits; same sources."""
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)
STREAM_TOKEN = 0
"""Fourth counter word: what the draw is for. 0 is the choice of a token; other draws take other numbers."""


class SampledToken(msgspec.Struct, frozen=True, kw_only=True):
    """One choice. logprob: raw, float32 precision. top: (id, logprob) in the order (logit falling, id rising)."""

    id: TokenId
    logprob: float
    top: tuple[tuple[TokenId, float], ...] = ()


def real(params: SamplingParams, name: str, largest: float) -> float:
    """Value of a real field in [0, largest]; anything else is refused (`zg/sampling/bad-params`)."""
    text = getattr(params, name)
    try:
        value = float(np.float32(text))
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= largest:
        raise LocalProtocolError("zg/sampling/bad-params", f"got {text!r}, wanted a number in [0, {largest:g}]", name)
    return value


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Refuse parameters outside their ranges, naming the field (`zg/sampling/bad-params`)."""
    real(params, "temperature", 1e6)
    real(params, "top_p", 1.0)
    real(params, "min_p", 1.0)
    for name, most in (("seed", 2**64 - 1), ("top_k", 2**31 - 1), ("top_logprobs", vocab_size)):
        value = getattr(params, name)
        if not 0 <= value <= most:
            raise LocalProtocolError("zg/sampling/bad-params", f"got {value}, wanted 0 … {most}", name)


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[U32, U32, U32, U32]:
    """Philox4x32-10. counter: four uint32 words, each a number or an array that broadcasts; four uint32 arrays back."""
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> WORD) ^ c1 ^ np.uint64(k0), p1 & LOW, (p0 >> WORD) ^ c3 ^ np.uint64(k1), p0 & LOW
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    r0, r1, r2, r3 = (np.asarray(word, dtype=np.uint32) for word in np.broadcast_arrays(c0, c1, c2, c3))
    return r0, r1, r2, r3


def gumbel(seed: int, position: int, ids: NDArray[Any]) -> F64:
    """Gumbel noise, float64, one for each token id. position: index in the sequence of the token that is drawn.

    The uniform has 52 bits of words 0 and 1 and lies in the middle of its cell, so that it is never 0 and never 1.
    """
    w0, w1, _, _ = philox4x32(
        (ids, position & 0xFFFFFFFF, position >> 32, STREAM_TOKEN), (seed & 0xFFFFFFFF, seed >> 32)
    )
    cell = (w0.astype(np.uint64) >> np.uint64(6) << np.uint64(26)) | (w1.astype(np.uint64) >> np.uint64(6))
    return -np.log(-np.log((cell.astype(np.float64) + 0.5) * 2.0**-52))


def checked(logits: NDArray[Any]) -> F64:
    """The logits as float64 `[vocab]`, or a refusal (rule 1)."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise LocalProtocolError("zg/sampling/bad-logits", f"got shape {values.shape}, wanted [vocab]", "logits")
    if np.isnan(values).any() or values.max() in (np.inf, -np.inf):
        raise LocalProtocolError("zg/sampling/bad-logits", "got NaN, +inf or only -inf, wanted numbers", "logits")
    return values


def logprobs(logits: NDArray[Any]) -> F64:
    """Natural log of softmax of raw logits `[vocab]`, float64."""
    shifted = checked(logits)
    shifted = shifted - shifted.max()
    return shifted - np.log(np.exp(shifted).sum())


def ranked(logits: NDArray[Any], count: int) -> list[int]:
    """The first count ids in the order (logit falling, id rising); -inf is an id like another here."""
    values = np.asarray(logits)
    if count <= 0:
        return []
    if count >= values.size:
        return np.argsort(-values, kind="stable").tolist()
    edge = np.partition(values, values.size - count)[values.size - count]
    near = np.flatnonzero(values >= edge)
    return near[np.argsort(-values[near], kind="stable")][:count].tolist()


def survivors(scaled: F64, top_k: int, top_p: float, min_p: float) -> NDArray[np.intp]:
    """Ids that pass rules 4 to 6, in the order (logit falling, id rising). scaled: logits / T."""
    finite = int(np.isfinite(scaled).sum())
    order = np.asarray(ranked(scaled, min(top_k or finite, finite)), dtype=np.intp)
    if top_p < 1.0:
        weight = np.exp(scaled[order] - scaled[order[0]])
        reached = np.cumsum(weight) / weight.sum() >= top_p
        order = order[: int(np.argmax(reached)) + 1 if reached.any() else order.size]
    if min_p > 0.0:
        order = order[scaled[order] - scaled[order[0]] >= math.log(min_p)]
    return order


def distribution(logits: NDArray[Any], params: SamplingParams) -> F64:
    """Exact probabilities float64 `[vocab]` with which `sample` chooses, over all seeds."""
    values = checked(logits)
    check_params(params, values.size)
    result = np.zeros_like(values)
    temperature = real(params, "temperature", 1e6)
    if temperature == 0.0:
        result[int(np.argmax(values))] = 1.0
        return result
    scaled = values / temperature
    kept = survivors(scaled, params.top_k, real(params, "top_p", 1.0), real(params, "min_p", 1.0))
    weight = np.exp(scaled[kept] - scaled[kept].max())
    result[kept] = weight / weight.sum()
    return result


def chosen(values: F64, params: SamplingParams, position: int) -> int:
    """Rules 2 to 7 on checked logits."""
    temperature = real(params, "temperature", 1e6)
    if temperature == 0.0:
        return int(np.argmax(values))
    scaled = values / temperature
    kept = np.sort(survivors(scaled, params.top_k, real(params, "top_p", 1.0), real(params, "min_p", 1.0)))
    return int(kept[int(np.argmax(scaled[kept] + gumbel(params.seed, position, kept)))])


def sample(logits: NDArray[Any], params: SamplingParams, position: int) -> SampledToken:
    """Choose the token at `position` from float32 logits `[vocab]`; see the rules above.

    Errors: `zg/sampling/bad-logits`, `zg/sampling/bad-params`.
    """
    values = checked(logits)
    check_params(params, values.size)
    if not 0 <= position < 2**63:
        raise LocalProtocolError("zg/sampling/bad-params", f"got {position}, wanted 0 … 2^63-1", "position")
    raw = logprobs(values)
    id = chosen(values, params, position)
    top = tuple((TokenId(i), float(np.float32(raw[i]))) for i in ranked(values, params.top_logprobs))
    return SampledToken(id=TokenId(id), logprob=float(np.float32(raw[id])), top=top)
