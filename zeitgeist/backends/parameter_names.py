"""The parameter names that transformers and mlx-lm give to canonical tensors; both use the same."""

__all__ = ["hugging_face_name"]

LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


def hugging_face_name(name: str) -> str:
    """The Hugging Face name of a canonical tensor: `layers.3.q` is `model.layers.3.self_attn.q_proj.weight`."""
    if name.startswith("layers."):
        _, index, part = name.split(".")
        return f"model.layers.{index}.{LAYER_NAMES[part]}"
    return {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}[name]
