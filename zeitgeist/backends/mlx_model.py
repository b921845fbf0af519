"""Getting a model into mlx-lm, and running a stage of it with the engine's own layers.

Law: attention, MLP, norms and rotary embeddings are mlx-lm's own modules. What mlx-lm 0.32.2 reads wrongly from a
configuration is handed to it in the words that it reads, never patched into its code:

- `llama` and `qwen2` know only top-level `rope_theta` and `rope_scaling`; transformers 5 writes both inside
  `rope_parameters`. Left alone, llama runs with base 10000 and qwen2 with 1000000, both without scaling, silently.
- `llama` and `qwen2` take a missing `tie_word_embeddings` for true and drop a stored `lm_head`; transformers takes it
  for false.
"""

import json
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache
from transformers import AutoTokenizer

from zeitgeist.backends.parameter_names import hugging_face_name
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.models.bundle import ModelBundle

__all__ = ["cache_of", "load_model", "load_tokenizer", "logits", "run_stage", "stack_caches"]


class FactorRope(nn.Module):
    """Half-split rotary embedding by a list of wavelengths, for a GGUF that holds only the divisors."""

    def __init__(self, dims: int, theta: float, factors: np.ndarray) -> None:
        super().__init__()
        self.dims = dims
        powers = np.float32(theta) ** (np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims))
        self._freqs = mx.array((powers * factors).astype(np.float32))

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        """x: [batch, head, position, dims]; offset: position of the first row."""
        return mx.fast.rope(x, self.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._freqs)


def load_model(bundle: ModelBundle, dtype: Any, as_published: bool) -> Any:
    """The model with parameters and arithmetic in dtype: mlx-lm's loader for directories, else canonical tensors.

    as_published: hand over the configuration as it stands in the directory, defects and all. Affine-quantised matrices
    stay packed; only their scales and biases take dtype.
    """
    if bundle.path.is_dir() and bundle.form in ("hf", "mlx"):
        words = {} if as_published else configuration_words(bundle)
        model, _ = mlx_lm.utils.load_model(bundle.path, model_config=words, trust_remote_code=False)
    else:
        model = from_canonical(bundle)
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    return model


def configuration_words(bundle: ModelBundle) -> dict[str, Any]:
    """The keys mlx-lm reads, with the values that the canonical configuration says."""
    config = json.loads((bundle.path / "config.json").read_bytes())
    return {**rope_words(bundle.config), "tie_word_embeddings": config.get("tie_word_embeddings", False)}


def rope_words(config: ModelConfig) -> dict[str, Any]:
    """Rotary keys of mlx-lm's model arguments; `rope_parameters` is emptied so that nothing is said twice."""
    rope = config.rope
    scaling: dict[str, Any] | None = None
    if rope.scaling in ("linear", "llama3"):
        scaling = {"rope_type": rope.scaling, "factor": float(rope.factor)}
    if rope.scaling == "llama3":
        assert scaling is not None
        scaling |= {
            "low_freq_factor": float(rope.low_freq_factor),
            "high_freq_factor": float(rope.high_freq_factor),
            "original_max_position_embeddings": rope.original_context,
        }
    return {"rope_theta": float(rope.theta), "rope_scaling": scaling, "rope_parameters": None}


def from_canonical(bundle: ModelBundle) -> Any:
    """mlx-lm's model class of the canonical configuration, filled with the canonical tensors, float32."""
    config = bundle.config
    words = {
        "model_type": config.family,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layer_count,
        "intermediate_size": config.ffn_size,
        "num_attention_heads": config.head_count,
        "num_key_value_heads": config.kv_head_count,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": float(config.norm_eps),
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": False,
        **rope_words(config),
    }
    model_class, arguments_class = mlx_lm.utils._get_classes(words)
    model = model_class(arguments_class.from_dict(words))
    tensors = [(hugging_face_name(name), mx.array(np.asarray(bundle.tensor(name)))) for name in bundle.names()]
    model.load_weights(tensors, strict=True)
    if config.rope.scaling == "factors":
        for layer in model.layers:
            layer.self_attn.rope = FactorRope(config.head_dim, float(config.rope.theta), bundle.rope_factors())
    return model


def load_tokenizer(bundle: ModelBundle) -> Any:
    """mlx-lm's own tokenizer of a directory. It reads none from a GGUF: there, transformers', which mlx-lm wraps."""
    if bundle.form == "gguf":
        return AutoTokenizer.from_pretrained(
            bundle.path.parent, gguf_file=bundle.path.name, local_files_only=True, trust_remote_code=False
        )
    return mlx_lm.utils.load_tokenizer(bundle.path if bundle.path.is_dir() else bundle.path.parent)


def run_stage(model: Any, cache: Sequence[Any], x: mx.array, first: int, stop: int) -> mx.array:
    """Layers [first, stop) on ids [batch, rows] (first == 0) or hidden rows [batch, rows, hidden]; no final norm."""
    hidden = model.model.embed_tokens(x) if first == 0 else x
    mask = create_attention_mask(hidden, cache[0])
    for layer, held in zip(model.layers[first:stop], cache, strict=True):
        hidden = layer(hidden, mask, cache=held)
    return hidden


def logits(model: Any, hidden: mx.array) -> mx.array:
    """Final norm and head, as each of the three model classes does it."""
    normed = model.model.norm(hidden)
    return model.model.embed_tokens.as_linear(normed) if model.args.tie_word_embeddings else model.lm_head(normed)


def cache_of(keys: mx.array | None, values: mx.array | None, count: int) -> Any:
    """One layer's `KVCache` over `[batch, kv_head, position, head_dim]`; it grows in steps of 256 positions."""
    held = KVCache()
    if keys is not None and count:
        held.keys, held.values, held.offset = keys, values, count
    return held


def stack_caches(caches: Sequence[Sequence[Any]]) -> list[Any]:
    """Members of equal length as one batch, layer by layer; copies K and V."""
    return [
        cache_of(None, None, 0)
        if layer[0].offset == 0
        else cache_of(
            mx.concatenate([held.keys[..., : held.offset, :] for held in layer]),
            mx.concatenate([held.values[..., : held.offset, :] for held in layer]),
            layer[0].offset,
        )
        for layer in zip(*caches, strict=True)
    ]
