"""How a token is chosen: the parameters as they travel with a job and are digested (E5). `sampling.py` applies them."""

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import Real

__all__ = ["GREEDY", "SamplingParams"]


class SamplingParams(Record, frozen=True, kw_only=True):
    """How to choose a token. seed: 0 … 2^64-1; temperature >= 0; top_k >= 0; top_p, min_p in [0, 1].

    A real's value is the float32 that its text reads as. top_logprobs: how many alternatives are reported.
    """

    seed: int = 0
    temperature: Real = Real("0.0")
    top_k: int = 0
    top_p: Real = Real("1.0")
    min_p: Real = Real("0.0")
    top_logprobs: int = 0


GREEDY = SamplingParams()
"""Temperature zero: the largest logit, among equals the lowest id."""
