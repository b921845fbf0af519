"""MLX with mlx-lm: Apple's array engine, here on its CPU build as well.

Options: `dtype` f32 (default) | f16 | bf16: parameters, arithmetic and cache (weights are cast after loading: mlx-lm
by itself computes in whatever the file holds); `device` cpu (default) | gpu (Metal); `config` corrected (default) |
published: with `published` mlx-lm reads config.json by itself, and misreads it (see `mlx_model`).

Buffers: MLX arrays are values; what enters is copied in, what leaves is evaluated and copied out to NumPy. A session
owns one `KVCache` per layer, whose buffer is padded to a multiple of 256 positions; only `[:offset]` is valid and only
that is exported. Sessions of equal length in one `decode` share one engine call on a stacked copy of their caches;
other lengths run in turn: mlx-lm's `BatchKVCache` left-pads, which moves every sum and would cost the bitwise claim.

`mx.compile` is off in this process: on the CPU it writes a C++ kernel, compiles it with the system compiler and loads
the library from a predictable folder in the shared temporary directory, where another user could place code.
Results are bitwise the same without it.

Claims: prefill in any chunks, token by token and a batched decode give the same bits on the CPU, in every dtype whose
test stands in tests/backends/test_mlx.py; on Metal nothing was measured, so nothing is claimed.
Clause I5.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zeitgeist.backends.base import F32, Backend, CacheArrays, LayerRange, Serve, Variant
from zeitgeist.backends.libraries import native_library, python_library
from zeitgeist.backends.own_tokenizer import OwnTokenizer
from zeitgeist.backends.sessions import BATCH_MAX, ArraySession, Rows, SessionEngine, choose
from zeitgeist.core.descriptors.backend import CAPABILITIES, BackendDescriptor
from zeitgeist.core.descriptors.model import FAMILIES, ModelConfig
from zeitgeist.core.errors import ZeitgeistError, refuse
from zeitgeist.core.formats.kv import CacheForm, ElementForm
from zeitgeist.models.bundle import ModelBundle

__all__ = ["HANDLED", "VARIANTS", "MlxBackend", "create"]

VARIANTS = (
    Variant("raw", "mlx-lm as published: it reads config.json by itself", {"config": "published"}),
    Variant("f16", "parameters, arithmetic and cache in float16", {"dtype": "f16"}),
    Variant("bf16", "parameters, arithmetic and cache in bfloat16", {"dtype": "bf16"}),
)

OPTIONS = {"dtype": ("f32", "f16", "bf16"), "device": ("cpu", "gpu"), "config": ("corrected", "published")}

HANDLED = ("head-tied-unless-told", "rope-theta-ignored")
"""Engine defects that `config=corrected` works around, by the ids of `certify/findings.py`."""


def create(options: Mapping[str, str]) -> Backend:
    """Import MLX and mlx-lm, turn run-time compilation off in this process, and make the adapter."""
    chosen = choose(options, OPTIONS)
    import mlx.core as mx

    mx.disable_compile()  # before mlx_lm is imported: it decorates functions with mx.compile at import
    mx.set_default_device(mx.cpu if chosen["device"] == "cpu" else mx.gpu)

    from zeitgeist.backends import mlx_model

    return MlxBackend(mx, mlx_model, chosen)


class MlxBackend(SessionEngine):
    """The adapter. mx, models: the imported engine and `mlx_model`; chosen: every option with its value."""

    chunk_default = 2048  # mlx-lm's own prefill_step_size

    def __init__(self, mx: Any, models: Any, chosen: Mapping[str, str]) -> None:
        super().__init__()
        self.mx = mx
        self.models = models
        self.chosen = chosen
        self.dtype = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}[chosen["dtype"]]
        self.model: Any = None
        self.tokenizer: OwnTokenizer | None = None

    def describe(self) -> BackendDescriptor:
        """Claims; bitwise ones on the CPU only."""
        on_cpu = self.chosen["device"] == "cpu"
        version = importlib.metadata.version("mlx")
        native = native_library("mlx", version, "libmlx.", Path(self.mx.__file__).parent / "lib")
        return BackendDescriptor(
            name="mlx",
            variant=variant_name(self.chosen),
            version=importlib.metadata.version("mlx-lm"),
            libraries=(*([native] if native else []), python_library("mlx-lm")),
            classes=("local_serving", "cache_capable", "tensor_export", "distributed_execution"),
            capabilities=CAPABILITIES,
            families=FAMILIES,
            context_max=self.config.context_length if self.config else 0,
            weight_dtypes=("f32", "f16", "bf16"),
            quantization=("mlx_affine",),
            attention=("sdpa",),
            cache_forms=(self.form(),) if self.config else (),
            tensor_formats=("f32",),
            parallelism=("layer_range",),
            sampler="canonical",
            prompt="ids",
            streaming=True,
            batch_max=BATCH_MAX,
            band="x32" if self.chosen["dtype"] == "f32" else "x16",
            activations="",
            batch_invariant=on_cpu,
            chunk_invariant=on_cpu,
            run_to_run=on_cpu,
            isolation="process",
            handled=HANDLED if self.chosen["config"] == "corrected" else (),
        )

    def form(self) -> CacheForm:
        element = ElementForm(dtype=self.chosen["dtype"])
        return CacheForm(k=element, v=element, pairing="half")

    def can_serve(self, config: ModelConfig, weights: str) -> Serve:
        """Weights of any kind: MLX affine runs packed, what is not a directory comes in as dequantised float32."""
        reasons = [] if config.family in FAMILIES else [f"family: {config.family}, known are {', '.join(FAMILIES)}"]
        if config.family == "qwen2" and config.head_dim * config.head_count != config.hidden_size:
            reasons.append("head_dim: mlx-lm's qwen2 takes hidden_size / head_count")
        if config.family == "llama" and config.qkv_bias:
            reasons.append("qkv_bias: mlx-lm's llama would add a bias to o as well")
        return Serve(tuple(reasons))

    def load(self, bundle: ModelBundle) -> None:
        """HF and MLX directories by mlx-lm's loader; GGUF and single files from canonical tensors."""
        answer = self.can_serve(bundle.config, "")
        if not answer.ok:
            raise refuse("zg/backend/not-serving", "model", "; ".join(answer.reasons), "a model that mlx-lm can run")
        self.model = self.models.load_model(bundle, self.dtype, self.chosen["config"] == "published")
        self.tokenizer = OwnTokenizer(self.models.load_tokenizer(bundle))
        self.config = bundle.config

    def tokenize(self, text: str) -> list[int]:
        """Ids by mlx-lm's tokenizer."""
        return self.own_tokenizer().encode(text)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids by the vocabulary of mlx-lm's tokenizer."""
        return self.own_tokenizer().decode(ids)

    def own_tokenizer(self) -> OwnTokenizer:
        self.model_config()
        assert self.tokenizer is not None
        return self.tokenizer

    def new_cache(self, layers: LayerRange) -> Any:
        return [self.models.cache_of(None, None, 0) for _ in range(layers.first, layers.stop)]

    def copy_cache(self, cache: Any) -> Any:
        # A slice is a new handle: the in-place update of one KVCache rebinds its own handle only.
        copies = [
            self.models.cache_of(None, None, 0)
            if held.offset == 0
            else self.models.cache_of(held.keys[..., : held.offset, :], held.values[..., : held.offset, :], held.offset)
            for held in cache
        ]
        self.settle(copies)
        return copies

    def settle(self, cache: Sequence[Any]) -> None:
        """Compute now what is still a graph, so that no call pays for another and an error is raised where it arose."""
        self.mx.eval([(held.keys, held.values) for held in cache if held.offset])

    def crop_cache(self, session: ArraySession, position_count: int) -> None:
        for held in session.cache:
            held.trim(held.offset - position_count)

    def step(self, session: ArraySession, x: Sequence[int] | F32, rows: Rows) -> F32:
        stage = session.layers
        given = self.mx.array([list(x)]) if stage.first == 0 else self.mx.array(np.asarray(x)[None]).astype(self.dtype)
        hidden = self.models.run_stage(self.model, session.cache, given, stage.first, stage.stop)
        if self.is_last(stage):
            first = {"none": hidden.shape[1], "last": hidden.shape[1] - 1, "all": 0}[rows]
            if rows == "none":
                self.settle(session.cache)
                return np.zeros((0, self.model_config().vocab_size), np.float32)
            hidden = self.models.logits(self.model, hidden[:, first:])
        return self.copied(hidden[0], session.cache)

    def copied(self, rows: Any, cache: Sequence[Any]) -> F32:
        rows = rows.astype(self.mx.float32)
        self.mx.eval(rows, [(held.keys, held.values) for held in cache])
        return np.array(rows, copy=True)

    def step_batch(self, sessions: Sequence[ArraySession], ids: Sequence[int]) -> F32:
        logits = np.empty((len(sessions), self.model_config().vocab_size), np.float32)
        groups: dict[int, list[int]] = {}
        for row, session in enumerate(sessions):
            groups.setdefault(session.position_count, []).append(row)
        for members in groups.values():
            if len(members) == 1:
                logits[members[0]] = self.step(sessions[members[0]], [ids[members[0]]], "all")[0]
            else:
                logits[members] = self.step_equal([sessions[row] for row in members], [ids[row] for row in members])
        return logits

    def step_equal(self, sessions: Sequence[ArraySession], ids: Sequence[int]) -> F32:
        stage = sessions[0].layers
        stacked = self.models.stack_caches([session.cache for session in sessions])
        hidden = self.models.run_stage(self.model, stacked, self.mx.array(list(ids))[:, None], stage.first, stage.stop)
        logits = self.copied(self.models.logits(self.model, hidden)[:, 0], stacked)
        for row, session in enumerate(sessions):
            for held, grown in zip(session.cache, stacked, strict=True):
                last = slice(grown.offset - 1, grown.offset)
                held.update_and_fetch(grown.keys[row : row + 1, :, last], grown.values[row : row + 1, :, last])
            self.settle(session.cache)
        return logits

    def read_cache(self, session: ArraySession) -> tuple[CacheForm, list[Any], list[Any]]:
        return (
            self.form(),
            [self.to_rows(held.keys, held.offset) for held in session.cache],
            [self.to_rows(held.values, held.offset) for held in session.cache],
        )

    def to_rows(self, array: Any, count: int) -> Any:
        config = self.model_config()
        if array is None or count == 0:
            return np.zeros((0, config.kv_head_count, config.head_dim), NUMPY_DTYPE[self.chosen["dtype"]])
        rows = array[0, :, :count].transpose(1, 0, 2)
        if self.chosen["dtype"] == "bf16":  # NumPy has no bfloat16: the bits travel as uint16
            rows = self.mx.view(rows, self.mx.uint16)
        return np.array(rows, copy=True, order="C")

    def write_cache(self, layers: LayerRange, cache: CacheArrays) -> Any:
        held = [
            self.models.cache_of(
                self.from_rows(k, cache.position_count), self.from_rows(v, cache.position_count), cache.position_count
            )
            for k, v in zip(cache.k, cache.v, strict=True)
        ]
        self.settle(held)
        return held

    def from_rows(self, rows: Any, count: int) -> Any:
        array = self.mx.array(np.ascontiguousarray(rows[:count]))
        if self.chosen["dtype"] == "bf16":
            array = self.mx.view(array, self.mx.bfloat16)
        return array.transpose(1, 0, 2)[None]

    def map_error(self, error: BaseException) -> tuple[str, str]:
        """Ours keep their id; the rest is `failed` with the engine's type and first line."""
        if isinstance(error, ZeitgeistError):
            return error.id, error.detail
        if isinstance(error, ImportError):
            return "zg/backend/not-installed", f"{error}; pip install 'zeitgeist[mlx]'"
        return "zg/backend/failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"

    def shutdown(self) -> None:
        """Drop the model and MLX's pool of freed buffers."""
        self.model, self.tokenizer, self.config = None, None, None
        self.mx.clear_cache()


NUMPY_DTYPE = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


def variant_name(chosen: Mapping[str, str]) -> str:
    """The variant these options are, or the options that differ from the defaults, or ""."""
    changed = {name: value for name, value in chosen.items() if value != OPTIONS[name][0]}
    named = [variant.name for variant in VARIANTS if dict(variant.options) == changed]
    return named[0] if named else ",".join(f"{name}={value}" for name, value in changed.items())
