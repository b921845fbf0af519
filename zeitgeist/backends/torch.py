"""torch with Hugging Face transformers: the engine most models are published for.

Options: `dtype` f32 (default) | f16 | bf16: weights, arithmetic and cache; `device` cpu (default) | cuda | mps;
`attention` sdpa (default) | eager; `threads` 1 (default) … 64. The first value is what the claims were measured with.

Buffers: what enters is copied into torch tensors, what leaves is copied out to NumPy; no view of engine memory is
given away. A session owns its `DynamicCache`; a batched decode works on a left-padded copy of the members' caches,
which lives for that call, and appends the new row to each member's own cache.

Not invariant, and not claimed: MKL's matrix product sums in another order for another number of rows (2e-6 to 7e-6 on
logits of a tiny model).
Clause I3.
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

__all__ = ["VARIANTS", "TorchBackend", "create"]

VARIANTS = (
    Variant("eager", "transformers' own attention instead of torch's fused one", {"attention": "eager"}),
    Variant("f16", "weights, arithmetic and cache in float16", {"dtype": "f16"}),
    Variant("bf16", "weights, arithmetic and cache in bfloat16", {"dtype": "bf16"}),
)

OPTIONS = {
    "dtype": ("f32", "f16", "bf16"),
    "device": ("cpu", "cuda", "mps"),
    "attention": ("sdpa", "eager"),
    "threads": tuple(str(count) for count in range(1, 65)),
}


def create(options: Mapping[str, str]) -> Backend:
    """Import torch and transformers, set the thread count of this process, and make the adapter."""
    chosen = choose(options, OPTIONS)
    import torch

    from zeitgeist.backends import torch_model

    torch_model.quiet()
    # One thread unless told otherwise: on shared cores two OpenMP threads spin at barriers, 5 to 10 times slower.
    torch.set_num_threads(int(chosen["threads"]))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return TorchBackend(torch, torch_model, chosen)


class TorchBackend(SessionEngine):
    """The adapter. torch, models: the imported engine and `torch_model`; chosen: every option with its value."""

    # transformers' `generate` prefills in one call; this bound exists for the latency of a cancellation.
    chunk_default = 2048

    def __init__(self, torch: Any, models: Any, chosen: Mapping[str, str]) -> None:
        super().__init__()
        self.torch = torch
        self.models = models
        self.chosen = chosen
        self.dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[chosen["dtype"]]
        self.model: Any = None
        self.tokenizer: OwnTokenizer | None = None
        self.stages: dict[LayerRange, Any] = {}

    def describe(self) -> BackendDescriptor:
        """Claims. run_to_run is claimed on the CPU only, where it was measured."""
        torch_version = str(self.torch.__version__)
        folder = Path(self.torch.__file__).parent / "lib"
        native = [native_library("torch", torch_version, name, folder) for name in ("libtorch_cpu.", "libtorch_cuda.")]
        return BackendDescriptor(
            name="torch",
            variant=variant_name(self.chosen),
            version=importlib.metadata.version("transformers"),
            libraries=(*(library for library in native if library), python_library("transformers")),
            classes=("local_serving", "cache_capable", "tensor_export", "distributed_execution"),
            capabilities=CAPABILITIES,
            families=FAMILIES,
            context_max=self.config.context_length if self.config else 0,
            weight_dtypes=("f32", "f16", "bf16"),
            quantization=(),
            attention=(self.chosen["attention"],),
            cache_forms=(self.form(),) if self.config else (),
            tensor_formats=("f32",),
            parallelism=("layer_range",),
            sampler="canonical",
            prompt="ids",
            streaming=True,
            batch_max=BATCH_MAX,
            band="x32" if self.chosen["dtype"] == "f32" else "x16",
            activations="",
            batch_invariant=False,
            chunk_invariant=False,
            run_to_run=self.chosen["device"] == "cpu",
            isolation="process",
        )

    def form(self) -> CacheForm:
        element = ElementForm(dtype=self.chosen["dtype"])
        return CacheForm(k=element, v=element, pairing="half")

    def can_serve(self, config: ModelConfig, weights: str) -> Serve:
        """Weights of any kind: what is not transformers' own form comes in as dequantised float32."""
        reasons = [] if config.family in FAMILIES else [f"family: {config.family}, known are {', '.join(FAMILIES)}"]
        if config.family == "llama" and config.qkv_bias:
            reasons.append("qkv_bias: transformers' llama would add a bias to o as well")
        return Serve(tuple(reasons))

    def load(self, bundle: ModelBundle) -> None:
        """HF directories by `from_pretrained` (SafeTensors, no remote code); other forms from canonical tensors."""
        answer = self.can_serve(bundle.config, "")
        if not answer.ok:
            raise refuse("zg/backend/not-serving", "model", "; ".join(answer.reasons), "a model that torch can run")
        self.model = self.models.load_model(bundle, self.dtype, self.chosen["attention"]).to(self.chosen["device"])
        self.tokenizer = OwnTokenizer(self.models.load_tokenizer(bundle))
        self.config = bundle.config
        self.stages = {}

    def tokenize(self, text: str) -> list[int]:
        """Ids by transformers' tokenizer."""
        return self.own_tokenizer().encode(text)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids by the vocabulary of transformers' tokenizer."""
        return self.own_tokenizer().decode(ids)

    def own_tokenizer(self) -> OwnTokenizer:
        self.model_config()
        assert self.tokenizer is not None
        return self.tokenizer

    def new_cache(self, layers: LayerRange) -> Any:
        if layers not in self.stages:
            self.stages[layers] = self.models.stage_model(self.model, layers.first, layers.stop)
        return self.models.new_cache()

    def copy_cache(self, cache: Any) -> Any:
        # Cloned, although this transformers never writes a cache tensor in place: a later one may.
        return self.models.cache_of([(layer.keys.clone(), layer.values.clone()) for layer in held_layers(cache)])

    def crop_cache(self, session: ArraySession, position_count: int) -> None:
        for layer in held_layers(session.cache):
            layer.keys = layer.keys[..., :position_count, :]
            layer.values = layer.values[..., :position_count, :]

    def step(self, session: ArraySession, x: Sequence[int] | F32, rows: Rows) -> F32:
        torch = self.torch
        with torch.inference_mode():
            if session.layers.first == 0:
                given = {"input_ids": torch.tensor([list(x)], device=self.chosen["device"])}
            else:
                given = {"inputs_embeds": torch.tensor(np.asarray(x)[None]).to(self.chosen["device"], self.dtype)}
            stage = self.stages[session.layers]
            hidden = stage(**given, past_key_values=session.cache, use_cache=True).last_hidden_state
            if self.is_last(session.layers):
                first = {"none": hidden.shape[1], "last": hidden.shape[1] - 1, "all": 0}[rows]
                hidden = self.model.lm_head(hidden[:, first:])
            return to_float32(hidden[0])

    def step_batch(self, sessions: Sequence[ArraySession], ids: Sequence[int]) -> F32:
        torch, device = self.torch, self.chosen["device"]
        counts = [session.position_count for session in sessions]
        with torch.inference_mode():
            cache = self.models.left_padded([session.cache for session in sessions], counts)
            width = max(counts)
            mask = torch.tensor([[0] * (width - count) + [1] * (count + 1) for count in counts], device=device)
            hidden = self.stages[sessions[0].layers](
                input_ids=torch.tensor(ids, device=device)[:, None],
                attention_mask=mask,
                position_ids=torch.tensor(counts, device=device)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            for row, session in enumerate(sessions):
                for index, layer in enumerate(cache.layers):
                    session.cache.update(layer.keys[row : row + 1, :, -1:], layer.values[row : row + 1, :, -1:], index)
            return to_float32(self.model.lm_head(hidden)[:, 0])

    def read_cache(self, session: ArraySession) -> tuple[CacheForm, list[Any], list[Any]]:
        layers = held_layers(session.cache)
        if not layers:
            config = self.model_config()
            empty = np.zeros((0, config.kv_head_count, config.head_dim), NUMPY_DTYPE[self.chosen["dtype"]])
            count = session.layers.stop - session.layers.first
            return self.form(), [empty.copy() for _ in range(count)], [empty.copy() for _ in range(count)]
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        return self.form(), [self.to_rows(k) for k in keys], [self.to_rows(v) for v in values]

    def to_rows(self, tensor: Any) -> Any:
        rows = tensor[0].transpose(0, 1).contiguous().cpu()
        if self.chosen["dtype"] == "bf16":  # NumPy has no bfloat16: the bits travel as uint16
            rows = rows.view(self.torch.uint16)
        return rows.numpy().copy()

    def write_cache(self, layers: LayerRange, cache: CacheArrays) -> Any:
        self.new_cache(layers)
        if cache.position_count == 0:
            return self.models.new_cache()
        return self.models.cache_of(
            [
                (self.from_rows(k, cache.position_count), self.from_rows(v, cache.position_count))
                for k, v in zip(cache.k, cache.v, strict=True)
            ]
        )

    def from_rows(self, rows: Any, count: int) -> Any:
        tensor = self.torch.tensor(rows[:count])
        if self.chosen["dtype"] == "bf16":
            tensor = tensor.view(self.torch.bfloat16)
        return tensor.transpose(0, 1)[None].to(self.chosen["device"]).contiguous()

    def map_error(self, error: BaseException) -> tuple[str, str]:
        """Ours keep their id; the rest is `failed` with the engine's type and first line."""
        if isinstance(error, ZeitgeistError):
            return error.id, error.detail
        if isinstance(error, ImportError):
            return "zg/backend/not-installed", f"{error}; pip install 'zeitgeist[torch]'"
        return "zg/backend/failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"

    def shutdown(self) -> None:
        """Drop model and stages; sessions left open keep their caches until they are dropped."""
        self.model, self.tokenizer, self.config = None, None, None
        self.stages = {}


NUMPY_DTYPE = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


def held_layers(cache: Any) -> list[Any]:
    """The layers of a DynamicCache that hold keys and values; none before the first forward pass."""
    return [layer for layer in cache.layers if layer.is_initialized]


def to_float32(tensor: Any) -> F32:
    """A NumPy copy, widened exactly."""
    return tensor.float().cpu().numpy().copy()


def variant_name(chosen: Mapping[str, str]) -> str:
    """The variant these options are, or the options that differ from the defaults, or ""."""
    changed = {name: value for name, value in chosen.items() if value != OPTIONS[name][0]}
    named = [variant.name for variant in VARIANTS if dict(variant.options) == changed]
    return named[0] if named else ",".join(f"{name}={value}" for name, value in changed.items())
