"""An opened model: one class for all forms; a form only says where its tensors lie (`TensorSource`).

Law: when a model is open, every tensor that the configuration demands is there with the right shape and type, and no
other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor
from zeitgeist.core.errors import refuse
from zeitgeist.models.canonical_tensors import expected_shapes, parameter_count
from zeitgeist.models.identity import describe_identity
from zeitgeist.models.rope_factors import rope_factors
from zeitgeist.models.tokenizer_bpe import BpeTokenizer

__all__ = ["OpenedModel", "TensorSource", "check_tensors", "widen"]


class TensorSource(Protocol):
    """Where the tensors of one form lie. Names are canonical; a tied head is never asked for."""

    def raw(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype or schema, data as stored)."""
        ...

    def values(self, name: str) -> NDArray[np.float32]:
        """Canonical values: dequantised, half-split rows."""
        ...

    def bound(self, name: str) -> NDArray[np.float32] | None:
        """For a quantised tensor the largest honest distance from its parent, [out, blocks], canonical rows.

        Else None.
        """
        ...


@dataclass(frozen=True)
class OpenedModel:
    """`ModelBundle` over a source. files: what was read, for the artifact digest; factors: from the file, or None."""

    path: Path
    form: Literal["hf", "safetensors", "gguf", "mlx"]
    name: str
    config: ModelConfig
    tied_head: bool
    source: TensorSource
    files: tuple[Path, ...]
    read_tokenizer: Callable[[], BpeTokenizer]
    factors: NDArray[np.float32] | None = None

    @property
    def tokenizer(self) -> BpeTokenizer:
        """Read when first asked for; refused then when unknown."""
        return self.tokenizer_once

    @cached_property
    def tokenizer_once(self) -> BpeTokenizer:
        """Kept, since its merge table is large."""
        return self.read_tokenizer()

    def descriptor(self) -> ModelDescriptor:
        """Identity with all digests. Errors: as of the tensors and of the tokenizer."""
        return self.descriptor_once

    @cached_property
    def descriptor_once(self) -> ModelDescriptor:
        """Kept, since every tensor is read for it."""
        return describe_identity(self)

    def names(self) -> tuple[str, ...]:
        """Canonical names in canonical order, the head included."""
        return tuple(expected_shapes(self.config))

    def stored(self, name: str) -> str:
        """The name under which the values lie: a tied head is the embedding."""
        if name not in expected_shapes(self.config):
            raise refuse("zg/model/tensor-missing", name, "a name that this model does not have", "one of names()")
        return "embed" if name == "head" and self.tied_head else name

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Values in float32 and canonical order."""
        return self.source.values(self.stored(name))

    def raw(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype or schema, data as stored)."""
        return self.source.raw(self.stored(name))

    def block_bound(self, name: str) -> NDArray[np.float32] | None:
        """For quantised tensors the largest honest distance from the parent, [out, blocks]."""
        return self.source.bound(self.stored(name))

    def rope_factors(self) -> NDArray[np.float32]:
        """float32 [head_dim / 2]; ones when unscaled."""
        return self.factors if self.factors is not None else rope_factors(self.config.rope, self.config.head_dim)

    @property
    def weights(self) -> str:
        """The one dtype or schema of all matrices, or `mixed`."""
        tags = sorted({self.raw(name)[0] for name, shape in expected_shapes(self.config).items() if len(shape) == 2})
        return tags[0] if len(tags) == 1 else "mixed"

    @property
    def parameter_count(self) -> int:
        """Numbers stored."""
        return parameter_count(self.config, self.tied_head)


def check_tensors(config: ModelConfig, tied_head: bool, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """found: canonical name (or the file's own, when it has no canonical one) → shape.

    Refuse missing, foreign, misshapen.
    """
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name == "head" and tied_head and name not in found:
            continue
        if name not in found:
            raise refuse("zg/model/tensor-missing", f"{where}: {name}", "nothing", f"a tensor of shape {list(shape)}")
        if found[name] != shape:
            raise refuse("zg/model/bad-shape", f"{where}: {name}", list(found[name]), list(shape))
    for name in found:
        if name not in expected:
            raise refuse(
                "zg/model/tensor-unexpected",
                f"{where}: {name}",
                f"shape {list(found[name])}",
                f"only tensors of a {config.family} of {config.layer_count} layers",
            )


def widen(dtype: str, data: NDArray[Any]) -> NDArray[np.float32]:
    """f32, f16, or bf16 (as uint16) to float32, exactly."""
    if dtype == "bf16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32, copy=False)
