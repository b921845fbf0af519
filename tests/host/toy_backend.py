"""A backend small enough to read: next-token logits are counts of what followed in the session. For worker tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zeitgeist.backends.base import CacheArrays, LayerRange, Serve, Session, Variant
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.kv import F32_HALF

__all__ = ["VARIANTS", "Toy", "create"]

VARIANTS = (Variant("mute", "claims nothing", {"capabilities": ""}),)
CLAIMS = "tokenize,prefill,decode,batched_decode,truncate,fork,layer_range,cache_export,cache_import,cancel,metrics"


class Toy:
    """Hidden rows are ids; logits put 1.0 at (id + 1) % vocab. option: capabilities."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.claims = tuple(filter(None, options.get("capabilities", CLAIMS).split(",")))
        self.vocab = 32
        self.called: list[str] = []

    def describe(self) -> BackendDescriptor:
        return BackendDescriptor(
            name="custom/zeitgeist/toy",
            variant="",
            version="1",
            libraries=(),
            classes=("local_serving",),
            capabilities=self.claims,
            families=("llama",),
            context_max=1 << 20,
            weight_dtypes=("f32",),
            quantization=(),
            attention=("dense",),
            cache_forms=(F32_HALF,),
            tensor_formats=(),
            parallelism=(),
            sampler="canonical",
            prompt="ids",
            streaming=False,
            batch_max=8,
            band="x32",
            activations="",
            batch_invariant=True,
            chunk_invariant=True,
            run_to_run=True,
            isolation="none",
        )

    def can_serve(self, config: Any, weights: str) -> Serve:
        return Serve()

    def load(self, bundle: Any) -> None:
        self.vocab = bundle.config.vocab_size

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def detokenize(self, ids: Sequence[int]) -> bytes:
        return bytes(id % 256 for id in ids)

    def open(self, layers: LayerRange | None = None) -> Session:
        return Session(layers or LayerRange(0, 1))

    def fork(self, session: Session) -> Session:
        return Session(session.layers, session.position_count)

    def truncate(self, session: Session, position_count: int) -> None:
        session.position_count = position_count

    def close(self, session: Session) -> None:
        session.position_count = -1

    def prefill(
        self,
        session: Session,
        ids: Sequence[int],
        *,
        chunk: int = 0,
        rows: str = "all",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        for _ in range(0, len(ids), chunk or len(ids)):
            if cancelled():
                raise LocalProtocolError("zg/backend/cancelled", "between two chunks", "prefill")
        session.position_count += len(ids)
        logits = self.logits(ids)
        return logits[-1:] if rows == "last" else logits

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        logits = np.zeros((len(ids), self.vocab), np.float32)
        logits[np.arange(len(ids)), (np.asarray(ids) + 1) % self.vocab] = 1
        return logits

    def decode(self, sessions: Sequence[Session], ids: Sequence[int]) -> np.ndarray:
        for session in sessions:
            session.position_count += 1
        return self.logits(ids)

    def forward_range(self, session: Session, x: Any) -> np.ndarray:
        session.position_count += len(x)
        return np.asarray(x, np.float32)

    def export_cache(self, session: Session) -> CacheArrays:
        raise NotImplementedError

    def import_cache(self, cache: CacheArrays, layers: LayerRange | None = None) -> Session:
        raise NotImplementedError

    def metrics(self) -> Mapping[str, int]:
        return {"tokens_prefilled": 0}

    def map_error(self, error: BaseException) -> tuple[str, str]:
        return "zg/backend/failed", f"{type(error).__name__}: {error}"

    def shutdown(self) -> None:
        self.called.append("shutdown")


def create(options: Mapping[str, str]) -> Toy:
    return Toy(options)
