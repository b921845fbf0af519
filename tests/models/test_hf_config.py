"""config.json: what is not known is refused by its name; both spellings of the rope mean one thing."""

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.manifest import ZG_TINY
from zeitgeist.core.descriptors.model import RopeConfig
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.ids import Real
from zeitgeist.models.hf_config import read_config
from zeitgeist.models.json_file import JsonFields, read_json

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def fields(**changes: Any) -> JsonFields:
    """zg-tiny's configuration with changes; `...` removes a field."""
    values = json.loads((ZG_TINY / "config.json").read_text()) | changes
    return JsonFields({name: value for name, value in values.items() if value is not ...}, "config.json")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another architecture": ({"model_type": "mixtral"}, "unknown-architecture", "model_type"),
    "no architecture": ({"model_type": ...}, "bad-config", "model_type"),
    "another head": ({"architectures": ["LlamaForSequenceClassification"]}, "unknown-architecture", "architectures"),
    "attention bias": ({"attention_bias": True}, "unsupported", "attention_bias"),
    "mlp bias": ({"mlp_bias": True}, "unsupported", "mlp_bias"),
    "gelu": ({"hidden_act": "gelu"}, "unsupported", "hidden_act"),
    "sliding window": ({"sliding_window": 512}, "unsupported", "sliding_window"),
    "sliding layers": ({"layer_types": ["full_attention", "sliding_attention"]}, "unsupported", "layer_types"),
    "sliding window of qwen": (
        {"model_type": "qwen2", "architectures": None, "use_sliding_window": True},
        "unsupported",
        "use_sliding_window",
    ),
    "experts": ({"num_local_experts": 8}, "unsupported", "num_local_experts"),
    "partial rotary": ({"partial_rotary_factor": 0.5}, "unsupported", "partial_rotary_factor"),
    "gptq": ({"quantization_config": {"quant_method": "gptq"}}, "unsupported", "quantization_config"),
    "yarn": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "unsupported", "rope_type"),
    "dynamic, older spelling": (
        {"rope_parameters": ..., "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "unsupported",
        "rope_type",
    ),
    "unknown rope field": (
        {"rope_parameters": {"rope_theta": 1e4, "attention_factor": 2.0}},
        "unsupported",
        "attention_factor",
    ),
    "rope for each layer type": (
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        "unsupported",
        "full_attention",
    ),
    "contradicting bases": ({"rope_theta": 500000.0}, "bad-config", "rope_theta"),
    "contradicting scalings": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "bad-config", "rope_scaling"),
    "no base for qwen": (
        {"model_type": "qwen3", "architectures": None, "rope_parameters": ...},
        "bad-config",
        "rope_theta",
    ),
    "base 0": ({"rope_parameters": {"rope_theta": 0}}, "bad-config", "rope_theta"),
    "llama3 without context": (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                **LLAMA3,
                "original_max_position_embeddings": None,
            }
        },
        "bad-config",
        "original_max",
    ),
    "llama3 upside down": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **LLAMA3, "low_freq_factor": 4.0}},
        "bad-config",
        "high_freq_factor",
    ),
    "kv heads that do not divide": ({"num_key_value_heads": 3}, "bad-config", "kv_head_count"),
    "odd head_dim": ({"head_dim": 33}, "bad-config", "head_dim"),
    "size as text": ({"hidden_size": "128"}, "bad-config", "hidden_size"),
    "size true": ({"num_hidden_layers": True}, "bad-config", "num_hidden_layers"),
    "size 0": ({"vocab_size": 0}, "bad-config", "vocab_size"),
    "size huge": ({"vocab_size": 1 << 40}, "bad-config", "vocab_size"),
    "layers for gigabytes": ({"num_hidden_layers": (1 << 31) - 1}, "bad-config", "num_hidden_layers"),
    "hidden size": ({"hidden_size": (1 << 31) - 1}, "bad-config", "hidden_size"),
    "heads": ({"num_attention_heads": (1 << 31) - 1}, "bad-config", "num_attention_heads"),
    "head size": ({"head_dim": (1 << 31) - 2}, "bad-config", "head_dim"),
    "feed forward": ({"intermediate_size": (1 << 31) - 1}, "bad-config", "intermediate_size"),
    "vocabulary": ({"vocab_size": (1 << 31) - 1}, "bad-config", "vocab_size"),
    "layer types no list": ({"layer_types": 5}, "bad-config", "layer_types"),
    "epsilon of 401 digits": ({"rms_norm_eps": 10**400}, "bad-config", "rms_norm_eps"),
    "base of 401 digits": ({"rope_parameters": {"rope_theta": 10**400}}, "bad-config", "rope_theta"),
    "base infinite in float32": ({"rope_parameters": {"rope_theta": 1e39}}, "bad-config", "rope_theta"),
    "epsilon 0 in float32": ({"rms_norm_eps": 1e-60}, "bad-config", "rms_norm_eps"),
    "epsilon NaN": ({"rms_norm_eps": float("nan")}, "bad-config", "rms_norm_eps"),
    "epsilon missing": ({"rms_norm_eps": ...}, "bad-config", "rms_norm_eps"),
    "rope is a list": ({"rope_parameters": [1]}, "bad-config", "rope_parameters"),
}


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("case", REFUSED)
def test_what_we_do_not_know_is_refused_by_name(case: str) -> None:
    """Each feature that would change the numbers, each field that cannot be."""
    changes, id, field = REFUSED[case]
    with pytest.raises(ZeitgeistError) as caught:
        read_config(fields(**changes))
    assert caught.value.id == f"zg/model/{id}" and field in caught.value.field, str(caught.value)


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    "rope, wanted",
    [
        ({}, RopeConfig(theta=Real("10000.0"))),
        ({"rope_theta": 500000}, RopeConfig(theta=Real("500000.0"))),
        ({"rope_theta": 1e6, "rope_scaling": None}, RopeConfig(theta=Real("1000000.0"))),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4}},
            RopeConfig(theta=Real("10000.0"), scaling="linear", factor=Real("4.0")),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            RopeConfig(
                theta=Real("500000.0"),
                scaling="llama3",
                factor=Real("8.0"),
                low_freq_factor=Real("1.0"),
                high_freq_factor=Real("4.0"),
                original_context=8192,
            ),
        ),
    ],
)
def test_the_older_spelling_of_the_rope_means_the_same(rope: dict[str, Any], wanted: RopeConfig) -> None:
    """rope_theta and rope_scaling at the top, and inside rope_parameters."""
    scaling = rope.get("rope_scaling") or {}
    newer = {
        "rope_theta": rope.get("rope_theta", 10000.0),
        **{key: value for key, value in scaling.items() if key != "type"},
        "rope_type": scaling.get("rope_type") or scaling.get("type") or "default",
    }
    assert read_config(fields(rope_parameters=..., **rope))[0].rope == wanted
    assert read_config(fields(rope_parameters=newer))[0].rope == wanted


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 100_000, "\xff"])
def test_what_is_no_json_object_is_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    """Empty, cut, of another kind, with a key twice, nested too deep, not UTF-8."""
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ZeitgeistError) as caught:
        read_json(path)
    assert caught.value.id == "zg/model/bad-config" and "config.json" in caught.value.field
