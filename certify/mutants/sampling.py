"""Mutants of sampling: what is drawn, and what is reported of it. In their own process they replace the sampler."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.ids import Real
from zeitgeist.host import generation
from zeitgeist.host import messages as m
from zeitgeist.host.service import Service
from zeitgeist.sampling import SampledToken, SamplingParams, distribution, sample

__all__ = [
    "AlwaysGreedy",
    "LosesBestToken",
    "NoiseWithoutPosition",
    "Penalises",
    "ProcessedLogprobs",
    "SeedIgnored",
    "StopIgnored",
    "TopKOneMore",
]

Logits = NDArray[np.float32]


class Sampler(Service):
    """`choose` is called where the canonical sampler is."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        setattr(generation, "sample", self.choose)  # noqa: B010 - a fault is planted, and pyright shall not mind

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        """The token at position."""
        return sample(logits, params, position)


class SeedIgnored(Sampler):
    """All requests draw with the seed of the first."""

    first: int | None = None

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        self.first = params.seed if self.first is None else self.first
        return super().choose(logits, msgspec.structs.replace(params, seed=self.first), position)


class AlwaysGreedy(Sampler):
    """Temperature is ignored."""

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        return super().choose(logits, msgspec.structs.replace(params, temperature=Real("0.0")), position)


class NoiseWithoutPosition(Sampler):
    """The draw does not depend on the absolute position, but on how many were drawn: a moved sequence draws others."""

    drawn = 0

    def generate(self, request: m.Generate, cancelled: Any) -> m.Generated:
        self.drawn = 0
        return super().generate(request, cancelled)

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        self.drawn += 1
        return super().choose(logits, params, self.drawn)


class ProcessedLogprobs(Sampler):
    """Reports logprobs of the filtered and tempered distribution as those of the model."""

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        chosen = super().choose(logits, params, position)
        share = float(distribution(logits, params)[chosen.id])
        return msgspec.structs.replace(chosen, logprob=float(np.log(share)))


class TopKOneMore(Sampler):
    """One candidate too many passes top_k."""

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        more = params.top_k + 1 if params.top_k else 0
        return super().choose(logits, msgspec.structs.replace(params, top_k=more), position)


class LosesBestToken(Sampler):
    """The best token never passes top_p unless it is alone: an approximate selection loses it."""

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        if float(params.top_p) < 1.0:
            logits = logits.copy()
            logits[int(np.argmax(logits))] = -np.inf
        return super().choose(logits, params, position)


class Penalises(Sampler):
    """A repetition penalty of 1.1 is on unless one turns it off, and one cannot."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[int] = []

    def generate(self, request: m.Generate, cancelled: Any) -> m.Generated:
        self.seen = list(request.ids)
        return super().generate(request, cancelled)

    def choose(self, logits: Logits, params: SamplingParams, position: int) -> SampledToken:
        logits = logits.copy()
        at = np.unique(np.asarray(self.seen, dtype=np.int64))
        logits[at] = np.where(logits[at] > 0, logits[at] / np.float32(1.1), logits[at] * np.float32(1.1))
        chosen = super().choose(logits, params, position)
        self.seen.append(int(chosen.id))
        return chosen


class StopIgnored(Service):
    """Stop ids are accepted and not looked at."""

    def generate(self, request: m.Generate, cancelled: Any) -> m.Generated:
        return super().generate(msgspec.structs.replace(request, stop_ids=()), cancelled)
