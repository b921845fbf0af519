"""config.json of Hugging Face and MLX directories → canonical configuration (A3, R3).

Law: a field that changes the arithmetic is either understood or refused by its name; the form of transformers 5
(`rope_parameters`) and the older one (`rope_theta`, `rope_scaling`) are both read, and may not contradict each other.
"""

import math
from typing import Any, Literal, cast

from zeitgeist.core.descriptors.model import FAMILIES, ModelConfig, RopeConfig
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.ids import Real
from zeitgeist.core.limits import LAYER_COUNT_MAX
from zeitgeist.models.canonical_tensors import real
from zeitgeist.models.json_file import JsonFields

__all__ = ["FFN_SIZE_MAX", "HEAD_COUNT_MAX", "HIDDEN_SIZE_MAX", "VOCAB_SIZE_MAX", "check_geometry", "read_config"]

HIDDEN_SIZE_MAX = 1 << 20
"""The widest public model (Llama 3.1 405B) has 16,384. Bounds head_dim too."""
HEAD_COUNT_MAX = 1 << 14
"""The same model has 128 heads."""
FFN_SIZE_MAX = 1 << 22
"""The same model has 53,248."""
VOCAB_SIZE_MAX = 1 << 24
"""The largest public vocabularies have 262,144 tokens."""

ROPE_FIELDS = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
}
LLAMA_THETA = 10_000.0
"""The base when a llama configuration names none.

All engines agree on it. They differ for qwen, so there it must stand.
"""

MUST_BE_OFF = (
    "attention_bias",
    "mlp_bias",
    "use_sliding_window",
    "rope_traditional",
    "residual_scale",
    "use_parallel_residual",
)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


def unsupported(fields: JsonFields, name: str, wanted: str) -> RemoteProtocolError:
    """The refusal of a feature, by its name."""
    return refuse("zg/model/unsupported", f"{fields.where}: {name}", repr(fields.get(name)), wanted)


def read_config(fields: JsonFields) -> tuple[ModelConfig, bool]:
    """(configuration, tied head). Errors: `zg/model/unknown-architecture`, `…/unsupported`, `…/bad-config`."""
    family = read_family(fields)
    refuse_unknown_parts(fields)
    hidden = fields.size("hidden_size", most=HIDDEN_SIZE_MAX)
    heads = fields.size("num_attention_heads", most=HEAD_COUNT_MAX)
    config = ModelConfig(
        family=family,
        hidden_size=hidden,
        layer_count=fields.size("num_hidden_layers", most=LAYER_COUNT_MAX),
        head_count=heads,
        kv_head_count=fields.size("num_key_value_heads", heads, HEAD_COUNT_MAX),
        head_dim=fields.size("head_dim", hidden // heads or 1, HIDDEN_SIZE_MAX),
        ffn_size=fields.size("intermediate_size", most=FFN_SIZE_MAX),
        vocab_size=fields.size("vocab_size", most=VOCAB_SIZE_MAX),
        norm_eps=real(fields.number("rms_norm_eps")),
        rope=read_rope(fields, family),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        context_length=fields.size("max_position_embeddings"),
    )
    check_geometry(config, fields.where)
    return config, fields.flag("tie_word_embeddings", False)


def check_geometry(config: ModelConfig, where: str) -> None:
    """Sizes that must fit each other, whatever file they came from."""
    if config.head_count % config.kv_head_count:
        raise refuse(
            "zg/model/bad-config",
            f"{where}: kv_head_count",
            config.kv_head_count,
            f"a divisor of {config.head_count} heads",
        )
    if config.head_dim % 2:
        raise refuse("zg/model/bad-config", f"{where}: head_dim", config.head_dim, "an even number: rotary pairs")
    if config.rope.original_context > 1 << 31:
        raise refuse("zg/model/bad-config", f"{where}: original_context", config.rope.original_context, "below 2^31")


def read_family(fields: JsonFields) -> Literal["llama", "qwen2", "qwen3"]:
    """`model_type`, which must be known, and `architectures`, which must be its causal language model."""
    family = fields.text("model_type")
    if family not in FAMILIES:
        raise refuse("zg/model/unknown-architecture", f"{fields.where}: model_type", family, " or ".join(FAMILIES))
    wanted = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[family]
    if fields.get("architectures") is not None and fields.items("architectures") != [wanted]:
        raise refuse(
            "zg/model/unknown-architecture", f"{fields.where}: architectures", fields.get("architectures"), [wanted]
        )
    return cast("Literal['llama', 'qwen2', 'qwen3']", family)


def refuse_unknown_parts(fields: JsonFields) -> None:
    """Features that change the numbers and that we do not compute."""
    for name in MUST_BE_OFF:
        if fields.get(name):
            raise unsupported(fields, name, "false")
    for name in EXPERTS:
        if fields.get(name):
            raise unsupported(fields, name, "no experts")
    if fields.get("hidden_act") not in (None, "silu", "swish"):
        raise unsupported(fields, "hidden_act", "silu")
    if fields.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise unsupported(fields, "partial_rotary_factor", "1")
    kinds = [] if fields.get("layer_types") is None else fields.items("layer_types")
    if any(kind != "full_attention" for kind in kinds):
        raise unsupported(fields, "layer_types", "full_attention in every layer")
    if fields.get("model_type") == "llama" and fields.get("sliding_window") is not None:
        raise unsupported(fields, "sliding_window", "null: engines differ on it for llama")
    quantised = fields.get("quantization_config")
    if quantised is not None and quantised != fields.get("quantization"):
        raise unsupported(fields, "quantization_config", "no quantisation but MLX affine groups")


def read_rope(fields: JsonFields, family: str) -> RopeConfig:
    """Rotary base and scaling from `rope_parameters`, or `rope_theta` with `rope_scaling`.

    Both only when they agree.
    """
    found = [rope_from(fields, part, family) for part in ("rope_parameters", "rope_scaling") if fields.get(part)]
    if not found:
        found = [RopeConfig(theta=theta_of(fields, None, family))]
    if any(rope != found[0] for rope in found):
        raise refuse(
            "zg/model/bad-config", f"{fields.where}: rope_scaling", found[1], f"the same as rope_parameters: {found[0]}"
        )
    return found[0]


def theta_of(fields: JsonFields, inside: JsonFields | None, family: str) -> Real:
    """The base: inside the rope object or at the top; if both, they must be equal."""
    values = [place.number("rope_theta") for place in (inside, fields) if place and place.get("rope_theta") is not None]
    if not values and family == "llama":
        values = [LLAMA_THETA]
    if not values or any(value != values[0] for value in values):
        raise refuse("zg/model/bad-config", f"{fields.where}: rope_theta", values or "nothing", "one number above 0")
    return real(values[0])


def rope_from(fields: JsonFields, part: str, family: str) -> RopeConfig:
    """One rope object. Kinds other than default, linear and llama3, and fields that we do not know, are refused."""
    inside = fields.fields(part)
    kind: Any = inside.get("rope_type") or inside.get("type") or "default"
    theta = theta_of(fields, inside, family)
    unknown = sorted(set(inside.values) - ROPE_FIELDS)
    if kind not in ("default", "linear", "llama3"):
        raise refuse("zg/model/unsupported", f"{inside.where}: rope_type", repr(kind), "default, linear or llama3")
    if unknown:
        raise unsupported(inside, unknown[0], "no such field for " + kind)
    if inside.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise unsupported(inside, "partial_rotary_factor", "1")
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, scaling="linear", factor=real(inside.number("factor")))
    low, high = inside.number("low_freq_factor"), inside.number("high_freq_factor")
    if not low < high or not math.isfinite(high):
        raise inside.wrong("high_freq_factor", "a number above low_freq_factor")
    return RopeConfig(
        theta=theta,
        scaling="llama3",
        factor=real(inside.number("factor")),
        low_freq_factor=real(low),
        high_freq_factor=real(high),
        original_context=inside.size("original_max_position_embeddings"),
    )
