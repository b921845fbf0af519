"""A bundle → a GGUF file that llama.cpp loads and that has the same model and tokenizer digests (R3, C4).

Law: what GGUF cannot say about the model is refused (`zg/model/cannot-express`), never dropped. q and k rows are put
into interleaved order for arch `llama` only; llama3 scaling becomes the `rope_freqs` tensor, as llama.cpp's own
converter does. The `gguf` package writes the file and quantises: its bytes equal `ggml_quantize_chunk`'s for these
schemas.
"""

import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.models.bundle import ModelBundle
from zeitgeist.models.canonical_tensors import interleave_rows
from zeitgeist.models.gguf_model import CONTROL, NORMAL, ROPE_FREQS, UNUSED, USER_DEFINED, gguf_name

__all__ = ["GGUF_TYPES", "write_gguf"]

GGUF_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
}
"""Our name of a weight type → GGUF's file type. Vectors stay float32 in all of them."""

BLOCK = 32


def write_gguf(bundle: ModelBundle, path: Path, weights: str = "f32") -> Path:
    """Write path, whole or not at all. weights: a key of `GGUF_TYPES`, for all matrices. Needs the `gguf` package."""
    check_expressible(bundle, weights)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        write_file(bundle, partial, weights)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def cannot(field: str, detail: str) -> LocalProtocolError:
    """The refusal to lose something."""
    return LocalProtocolError("zg/model/cannot-express", detail, field)


def check_expressible(bundle: ModelBundle, weights: str) -> None:
    """What GGUF or llama.cpp has no way to say."""
    config = bundle.config
    if weights not in GGUF_TYPES:
        raise cannot("weights", f"got {weights}, wanted one of {', '.join(GGUF_TYPES)}")
    if config.rope.scaling in ("llama3", "factors") and config.family != "llama":
        raise cannot("rope.scaling", f"llama.cpp reads rope divisors for arch llama only, not for {config.family}")
    if config.family == "qwen2" and config.head_count * config.head_dim != config.hidden_size:
        raise cannot("head_dim", f"llama.cpp's qwen2 needs head_count * head_dim = hidden_size, {config.hidden_size}")
    rows = {config.hidden_size, config.ffn_size, config.head_count * config.head_dim}
    if weights.startswith("q") and any(size % BLOCK for size in rows):
        raise cannot(
            "hidden_size", f"rows of {sorted(rows)} are not whole blocks of {BLOCK}, so {weights} is impossible"
        )


def write_file(bundle: ModelBundle, path: Path, weights: str) -> None:
    """Header, metadata, tensors."""
    import gguf

    writer = gguf.GGUFWriter(path, bundle.config.family)
    write_config(writer, bundle, weights)
    write_tokenizer(writer, bundle)
    scaling = bundle.config.rope.scaling
    if scaling in ("llama3", "factors"):
        writer.add_tensor(ROPE_FREQS, bundle.rope_factors())
    for name in bundle.names():
        if not (name == "head" and bundle.tied_head):
            add_tensor(writer, gguf_name(name), stored_rows(bundle, name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_config(writer: Any, bundle: ModelBundle, weights: str) -> None:
    """Geometry and constants. Both head widths and the rotary width are written out, so that nothing is derived."""
    import gguf

    config = bundle.config
    writer.add_name(bundle.name)
    writer.add_file_type(gguf.LlamaFileType[GGUF_TYPES[weights]])
    writer.add_block_count(config.layer_count)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.head_count)
    writer.add_head_count_kv(config.kv_head_count)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float(config.rope.theta))
    writer.add_layer_norm_rms_eps(float(config.norm_eps))
    writer.add_vocab_size(config.vocab_size)
    if config.rope.scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(config.rope.factor))
    if weights.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_tokenizer(writer: Any, bundle: ModelBundle) -> None:
    """Byte-level BPE; embedding rows beyond the vocabulary become unused tokens, as llama.cpp's converter pads."""
    from zeitgeist.models.tokenizer_bpe import BpeTokenizer

    tokenizer = bundle.tokenizer
    if not isinstance(tokenizer, BpeTokenizer):
        raise AssertionError("bundles are opened with a BpeTokenizer")
    padding = range(len(tokenizer.tokens), bundle.config.vocab_size)
    if bundle.config.vocab_size < len(tokenizer.tokens):
        raise cannot("vocab_size", f"{len(tokenizer.tokens)} tokens but only {bundle.config.vocab_size} embedding rows")
    kinds = [
        CONTROL if id in tokenizer.specials.values() else USER_DEFINED if id in tokenizer.added.values() else NORMAL
        for id in range(len(tokenizer.tokens))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokenizer.tokens, *(f"[PAD{id}]" for id in padding)])
    writer.add_token_types([*kinds, *(UNUSED for _ in padding)])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    if tokenizer.bos is not None:
        writer.add_bos_token_id(tokenizer.bos)
    if tokenizer.eos is not None:
        writer.add_eos_token_id(tokenizer.eos)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def stored_rows(bundle: ModelBundle, name: str) -> NDArray[np.float32]:
    """Values in the row order that llama.cpp wants."""
    values, part = bundle.tensor(name), name.rpartition(".")[2]
    if bundle.config.family == "llama" and part in ("q", "k"):
        heads = bundle.config.head_count if part == "q" else bundle.config.kv_head_count
        return np.ascontiguousarray(interleave_rows(values, heads), np.float32)
    return values


def add_tensor(writer: Any, name: str, values: NDArray[np.float32], weights: str) -> None:
    """Vectors as float32, matrices in the wanted type. float16 that would overflow is refused."""
    import gguf

    if values.ndim == 1 or weights == "f32":
        writer.add_tensor(name, np.ascontiguousarray(values))
    elif weights == "f16":
        if float(np.abs(values).max()) > float(np.finfo(np.float16).max):
            raise cannot(name, "a weight is larger than float16 can hold")
        writer.add_tensor(name, values.astype(np.float16))
    else:
        kind = gguf.GGMLQuantizationType[weights.upper()]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
