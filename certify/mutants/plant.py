"""How a mutant is made: a factory for a subclass of the reference model or backend, with the reference's claims."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from zeitgeist.backends.reference import CHUNK, ReferenceBackend
from zeitgeist.backends.reference_model import ReferenceModel

__all__ = ["Factory", "plant"]

Factory = Callable[[Mapping[str, str]], ReferenceBackend]


def plant(
    *,
    model: type[ReferenceModel] = ReferenceModel,
    backend: type[ReferenceBackend] = ReferenceBackend,
    chunk: int = CHUNK,
    cache: Literal["f32", "f16"] = "f32",
) -> Factory:
    """A factory as `backends/registry.create` calls it; options are of no use to a mutant."""

    def create(options: Mapping[str, str]) -> Any:
        return backend(model, chunk=chunk, cache=cache)

    return create
