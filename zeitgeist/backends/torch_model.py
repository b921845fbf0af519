"""Getting a Hugging Face model into torch, and running a stage of it with the engine's own forward pass.

Law: layers, masks and rotary embeddings are transformers' own code in every case; a stage is the same modules under a
shallow copy of the base model, so weights are never duplicated. PyTorch pickles and remote code are never read.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from zeitgeist.backends.parameter_names import hugging_face_name
from zeitgeist.core.descriptors.model import ModelConfig
from zeitgeist.models.bundle import ModelBundle

__all__ = ["cache_of", "left_padded", "load_model", "load_tokenizer", "new_cache", "quiet", "stage_model"]


def load_model(bundle: ModelBundle, dtype: Any, attention: str) -> Any:
    """The model, in evaluation mode: by transformers' loader for its own form, else from canonical tensors."""
    if bundle.form == "hf":
        model = AutoModelForCausalLM.from_pretrained(
            bundle.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=attention,
        )
        return model.eval()
    return from_canonical(bundle, dtype, attention)


def from_canonical(bundle: ModelBundle, dtype: Any, attention: str) -> Any:
    """transformers' model of the canonical configuration, filled with the canonical tensors, cast to dtype."""
    config = hf_config(bundle.config)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
    )
    model.load_state_dict(
        {hugging_face_name(name): torch.from_numpy(np.array(bundle.tensor(name))) for name in bundle.names()},
        strict=True,
    )
    if bundle.config.rope.scaling == "factors":
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / torch.from_numpy(np.array(bundle.rope_factors()))
    return model.eval()


def hf_config(config: ModelConfig) -> Any:
    """A transformers configuration of the same numbers. The head is always written out, so never tied."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(config.rope.theta)}
    if config.rope.scaling in ("linear", "llama3"):
        rope |= {"rope_type": config.rope.scaling, "factor": float(config.rope.factor)}
    if config.rope.scaling == "llama3":
        rope |= {
            "low_freq_factor": float(config.rope.low_freq_factor),
            "high_freq_factor": float(config.rope.high_freq_factor),
            "original_max_position_embeddings": config.rope.original_context,
        }
    return AutoConfig.for_model(
        config.family,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.layer_count,
        num_attention_heads=config.head_count,
        num_key_value_heads=config.kv_head_count,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        rms_norm_eps=float(config.norm_eps),
        max_position_embeddings=config.context_length,
        rope_parameters=rope,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def load_tokenizer(bundle: ModelBundle) -> Any:
    """transformers' own tokenizer of the directory or of the GGUF file."""
    if bundle.form == "gguf":
        return AutoTokenizer.from_pretrained(
            bundle.path.parent, gguf_file=bundle.path.name, local_files_only=True, trust_remote_code=False
        )
    folder = bundle.path if bundle.path.is_dir() else bundle.path.parent
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def stage_model(model: Any, first: int, stop: int) -> Any:
    """The base model reduced to layers [first, stop), weights shared; the final norm only when stop is the last layer.

    Layer indices are renumbered from 0, because transformers sizes its masks by the cache of layer 0.
    """
    base = model.model
    if (first, stop) == (0, len(base.layers)):
        return base
    stage = shallow(base)
    stage.config = copy.deepcopy(base.config)
    stage.config.num_hidden_layers = stop - first
    if getattr(stage.config, "layer_types", None):
        stage.config.layer_types = base.config.layer_types[first:stop]
    stage.layers = torch.nn.ModuleList(renumbered(base.layers[first + i], i) for i in range(stop - first))
    if stop < len(base.layers):
        stage.norm = torch.nn.Identity()
    return stage


def renumbered(layer: Any, index: int) -> Any:
    """The layer writing its keys and values at index; weights shared."""
    twin = shallow(layer)
    twin.self_attn = shallow(layer.self_attn)
    twin.self_attn.layer_idx = index
    return twin


def shallow(module: Any) -> Any:
    """A copy whose submodules can be replaced without touching the original."""
    # copy.copy shares the dictionary of submodules; replacing one would change the original too.
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def quiet() -> None:
    """transformers prints bars and advice to stderr, where a worker's stderr is kept for crash reports."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def new_cache() -> Any:
    """An empty cache whose layers appear as they are written."""
    return DynamicCache()


def cache_of(layers: Sequence[tuple[Any, Any]]) -> Any:
    """A cache that takes over these (keys, values), `[batch, kv_head, position, head_dim]`, per layer."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def left_padded(caches: Sequence[Any], counts: Sequence[int]) -> Any:
    """One cache with the members' positions right-justified; the zeros on the left are for the mask to hide."""
    width = max(counts)
    if width == 0:
        return DynamicCache()
    return cache_of(
        [
            (
                pad_stack([cache_tensor(c, i, "keys", caches) for c in caches], width),
                pad_stack([cache_tensor(c, i, "values", caches) for c in caches], width),
            )
            for i in range(max(len(cache.layers) for cache in caches))
        ]
    )


def cache_tensor(cache: Any, index: int, name: str, caches: Sequence[Any]) -> Any:
    """Keys or values of one member; no rows, in the shape of a filled member's, when it holds none."""
    if is_filled(cache, index):
        return getattr(cache.layers[index], name)
    return next(getattr(c.layers[index], name) for c in caches if is_filled(c, index))[:, :, :0]


def is_filled(cache: Any, index: int) -> bool:
    """True when the cache has been written at this layer."""
    return len(cache.layers) > index and cache.layers[index].is_initialized


def pad_stack(tensors: Sequence[Any], width: int) -> Any:
    """One batch of `[1, kv_head, position, head_dim]` tensors, zeros on the left up to width."""
    pad = torch.nn.functional.pad
    return torch.cat([pad(tensor, (0, 0, width - tensor.shape[2], 0)) for tensor in tensors])
