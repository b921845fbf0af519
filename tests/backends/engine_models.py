"""Small random Hugging Face directories for the adapters' tests, and transformers' float64 logits for them."""

import functools
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from zeitgeist.models.bundle import open_bundle

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

GEOMETRIES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "head_dim": 32},
    "llama-theta": {"family": "llama", "head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "llama-llama3": {"family": "llama", "head_dim": 32, "rope_parameters": LLAMA3},
    "llama-linear": {
        "family": "llama",
        "head_dim": 32,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
    "llama-tied": {"family": "llama", "head_dim": 32, "tie_word_embeddings": True},
    "qwen2": {"family": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "qwen3": {"family": "qwen3", "head_dim": 64, "rope_parameters": LLAMA3},
}

PROMPT = np.random.default_rng(7).integers(0, 500, 150).tolist()


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="zg-engines-")


@functools.cache
def model(name: str) -> Any:
    """bundle: opened directory; logits: float64 of PROMPT by transformers; path."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    options = {**GEOMETRIES[name]}
    config = AutoConfig.for_model(
        options.pop("family"),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=options.pop("tie_word_embeddings", False),
        bos_token_id=0,
        eos_token_id=1,
        **options,
    )
    made = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, values in made.named_parameters():
            # Fresh weights have norms of one, biases of zero and flat attention: every mistake there would hide.
            if values.ndim == 2:
                values.mul_(4)
            elif "bias" in key:
                values.normal_(0, 0.5)
            else:
                values.add_(torch.randn_like(values) * 0.2)
    path = Path(folder().name) / name
    made.save_pretrained(path)
    write_tokenizer(path)
    with torch.no_grad():
        logits = made.double()(torch.tensor([PROMPT])).logits[0].numpy()
    return SimpleNamespace(path=path, logits=logits, bundle=open_bundle(path))


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|bos|>", "<|eos|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([Path(tempfile.__file__).read_text(), Path(functools.__file__).read_text()], trainer)
    # Not `save_pretrained`: it adds a template to the file, which nothing here asks for.
    tokenizer.save(str(path / "tokenizer.json"))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(words))


def tolerance(logits: np.ndarray) -> float:
    """DESIGN §4, fidelity in the f32 band: 64 units in the last place of the largest logit."""
    return float(64 * 2.0**-24 * np.abs(logits).max())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference."""
    return float(np.abs(np.asarray(a, np.float64) - b).max())
