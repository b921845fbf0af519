"""Mutants of the arithmetic: masks, scale, head groups, norms, biases, precision that nobody declared."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certify.mutants.plant import plant
from zeitgeist.backends.reference_model import ReferenceModel
from zeitgeist.core.descriptors.model import ModelConfig

__all__ = [
    "bias_dropped",
    "constant_confidence",
    "eps_hard_coded",
    "first_token_unseen",
    "gqa_modulo",
    "head_norm_dropped",
    "mask_sees_one_less",
    "scale_one_percent",
    "weights_in_bf16",
    "window_of_128",
]

F32 = NDArray[Any]


class Scaled(ReferenceModel):
    """The scale of the attention scores is 1 % too large."""

    def scale(self) -> np.float32:
        return np.float32(1.01) * super().scale()


class SeesOneLess(ReferenceModel):
    """The mask is off by one: a token does not see itself, but for the first."""

    def visible(self, position: int) -> slice:
        return slice(0, max(position, 1))


class FirstUnseen(ReferenceModel):
    """The first token, which attention uses as a sink, is lost from 64 tokens on."""

    def visible(self, position: int) -> slice:
        return slice(1 if position >= 64 else 0, position + 1)


class Window(ReferenceModel):
    """A sliding window of 128 tokens on a model that has none."""

    def visible(self, position: int) -> slice:
        return slice(max(0, position - 127), position + 1)


class Modulo(ReferenceModel):
    """Query heads find their KV head by remainder, not by division."""

    def kv_head_of(self, query_head: int) -> int:
        return query_head % self.config.kv_head_count


class WrongEps(ReferenceModel):
    """The epsilon of the norms is 1e-6, whatever the configuration says."""

    def __init__(
        self, config: ModelConfig, tensor: Callable[[str], F32], names: Sequence[str], rope_factors: F32
    ) -> None:
        super().__init__(config, tensor, names, rope_factors)
        self.eps = np.float32(1e-6)


class Without(ReferenceModel):
    """Tensors whose names end so are not read."""

    ending = ""

    def weight(self, layer: int, name: str) -> F32 | None:
        return None if name.endswith(self.ending) else super().weight(layer, name)


class WithoutBias(Without):
    """The biases of query, key and value are not read."""

    ending = "_bias"


class WithoutHeadNorm(Without):
    """The norms of query and key heads are not read."""

    ending = "_norm"


class CoarseWeights(ReferenceModel):
    """Weights are cut to bfloat16 when they are loaded, and nobody is told."""

    def __init__(
        self, config: ModelConfig, tensor: Callable[[str], F32], names: Sequence[str], rope_factors: F32
    ) -> None:
        def cut(name: str) -> F32:
            bits = np.ascontiguousarray(tensor(name), dtype=np.float32).view(np.uint32)
            return (bits & np.uint32(0xFFFF0000)).view(np.float32)

        super().__init__(config, cut, names, rope_factors)


class Confident(ReferenceModel):
    """Logits are tripled: the same best token, with much more confidence."""

    def head(self, x: F32) -> F32:
        return super().head(x) * np.float32(3)


scale_one_percent = plant(model=Scaled)
mask_sees_one_less = plant(model=SeesOneLess)
first_token_unseen = plant(model=FirstUnseen)
window_of_128 = plant(model=Window)
gqa_modulo = plant(model=Modulo)
eps_hard_coded = plant(model=WrongEps)
bias_dropped = plant(model=WithoutBias)
head_norm_dropped = plant(model=WithoutHeadNorm)
weights_in_bf16 = plant(model=CoarseWeights)
constant_confidence = plant(model=Confident)
