"""A GGUF file → an opened model: configuration, tensors with q and k un-permuted, tokenizer (R3, A3).

Law: every key of the architecture is either understood or refused by name, since an unknown one may change the numbers.
For arch `llama` the rows of q and k lie interleaved and are put back into half-split order; for qwen they lie
half-split.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from zeitgeist.convert.quantise import BLOCKS, dequantise
from zeitgeist.core.descriptors.model import FAMILIES, ModelConfig, RopeConfig
from zeitgeist.core.errors import refuse
from zeitgeist.core.limits import LAYER_COUNT_MAX
from zeitgeist.models.block_bounds import error_bound_ggml
from zeitgeist.models.canonical_tensors import expected_shapes, real, split_rows
from zeitgeist.models.gguf_file import GgufFile, open_gguf
from zeitgeist.models.hf_config import (
    FFN_SIZE_MAX,
    HEAD_COUNT_MAX,
    HIDDEN_SIZE_MAX,
    VOCAB_SIZE_MAX,
    check_geometry,
)
from zeitgeist.models.json_file import JsonFields
from zeitgeist.models.opened import OpenedModel, check_tensors, widen
from zeitgeist.models.tokenizer_bpe import BpeTokenizer, token_bytes_of

__all__ = ["GGUF_PARTS", "ROPE_FREQS", "gguf_name", "open_gguf_model"]

GGUF_PARTS = {
    "attn_norm": "attn_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}
TOP = {"embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"}
ROPE_FREQS = "rope_freqs.weight"

KNOWN_KEYS = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "vocab_size",
}
"""Keys that we read or check. Any other key of the architecture is refused unless it is zero."""

GGUF_THETA = 10_000.0
"""llama.cpp's base when the file names none."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def gguf_name(canonical: str) -> str:
    """The name of a canonical tensor in a GGUF file."""
    if canonical in TOP:
        return TOP[canonical]
    _, index, part = canonical.split(".")
    return f"blk.{index}.{GGUF_PARTS[part]}"


class GgufSource:
    """`TensorSource` over a GGUF file."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self.file = file
        self.config = config

    def raw(self, name: str) -> tuple[str, NDArray[Any]]:
        return self.file.tensor(gguf_name(name))

    def values(self, name: str) -> NDArray[np.float32]:
        tag, data = self.raw(name)
        values = dequantise(data, tag) if tag in BLOCKS else widen(tag, data)
        return cast("NDArray[np.float32]", self.in_canonical_rows(name, values))

    def bound(self, name: str) -> NDArray[np.float32] | None:
        tag, data = self.raw(name)
        if tag not in BLOCKS:
            return None
        return cast("NDArray[np.float32]", self.in_canonical_rows(name, error_bound_ggml(tag, data)))

    def in_canonical_rows(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        """q and k of arch llama back to half-split order."""
        part = name.rpartition(".")[2]
        if self.config.family != "llama" or part not in ("q", "k"):
            return rows
        return split_rows(rows, self.config.head_count if part == "q" else self.config.kv_head_count)


def open_gguf_model(path: Path) -> OpenedModel:
    """Open and check one file. Errors name file and field."""
    file = open_gguf(path)
    fields = plain_fields(file)
    family = fields.get("general.architecture")
    if not isinstance(family, str) or family not in FAMILIES:
        raise refuse(
            "zg/model/unknown-architecture", f"{path.name}: general.architecture", family, " or ".join(FAMILIES)
        )
    config = read_config(fields, family, file)
    tied_head = TOP["head"] not in file.tensors
    source = GgufSource(file, config)
    canonical = {gguf_name(name): name for name in expected_shapes(config)}
    found = {canonical.get(name, name): spec.shape for name, spec in file.tensors.items() if name != ROPE_FREQS}
    check_tensors(config, tied_head, found, path.name)
    name = fields.get("general.name")
    return OpenedModel(
        path=path,
        form="gguf",
        name=name if isinstance(name, str) else path.stem,
        config=config,
        tied_head=tied_head,
        source=source,
        files=(path,),
        read_tokenizer=lambda: read_tokenizer(file),
        factors=read_factors(file, config, fields),
    )


def plain_fields(file: GgufFile) -> JsonFields:
    """Metadata as fields; arrays stay arrays."""
    return JsonFields(cast("dict[str, Any]", file.metadata), file.path.name)


def read_config(fields: JsonFields, family: str, file: GgufFile) -> ModelConfig:
    """Geometry and constants from the architecture's keys."""
    refuse_unknown_keys(fields, family)
    hidden = fields.size(f"{family}.embedding_length", most=HIDDEN_SIZE_MAX)
    heads = fields.size(f"{family}.attention.head_count", most=HEAD_COUNT_MAX)
    head_dim = fields.size(f"{family}.attention.key_length", hidden // heads or 1, HIDDEN_SIZE_MAX)
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.size(f"{family}.{key}", head_dim) != head_dim:
            raise refuse(
                "zg/model/unsupported",
                f"{fields.where}: {family}.{key}",
                fields.get(f"{family}.{key}"),
                f"head_dim {head_dim}",
            )
    embedding = file.tensors.get(TOP["embed"])
    config = ModelConfig(
        family=cast("Literal['llama', 'qwen2', 'qwen3']", family),
        hidden_size=hidden,
        layer_count=fields.size(f"{family}.block_count", most=LAYER_COUNT_MAX),
        head_count=heads,
        kv_head_count=fields.size(f"{family}.attention.head_count_kv", heads, HEAD_COUNT_MAX),
        head_dim=head_dim,
        ffn_size=fields.size(f"{family}.feed_forward_length", most=FFN_SIZE_MAX),
        vocab_size=fields.size(f"{family}.vocab_size", embedding.shape[0] if embedding else None, VOCAB_SIZE_MAX),
        norm_eps=real(fields.number(f"{family}.attention.layer_norm_rms_epsilon")),
        rope=read_rope(fields, family, file),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        context_length=fields.size(f"{family}.context_length"),
    )
    check_geometry(config, fields.where)
    return config


def refuse_unknown_keys(fields: JsonFields, family: str) -> None:
    """A key of the architecture that we do not read may change the numbers, unless it says zero."""
    for key, value in fields.values.items():
        if key.startswith(family + ".") and key.removeprefix(family + ".") not in KNOWN_KEYS:
            if isinstance(value, int | float) and not value:
                continue
            raise refuse("zg/model/unsupported", f"{fields.where}: {key}", value, "no such key, or zero")


def read_rope(fields: JsonFields, family: str, file: GgufFile) -> RopeConfig:
    """Base and scaling: none, linear, or the divisors of `rope_freqs.weight`; both at once is refused."""
    theta = real(fields.number(f"{family}.rope.freq_base", GGUF_THETA))
    kind = fields.get(f"{family}.rope.scaling.type")
    if not isinstance(kind, str | None) or kind not in (None, "none", "linear"):
        raise refuse("zg/model/unsupported", f"{fields.where}: {family}.rope.scaling.type", kind, "none or linear")
    if ROPE_FREQS in file.tensors:
        if kind == "linear" or family != "llama":
            raise refuse(
                "zg/model/unsupported",
                f"{fields.where}: {ROPE_FREQS}",
                f"divisors for {family}, scaling {kind}",
                "divisors only for arch llama and without another scaling: llama.cpp ignores them elsewhere",
            )
        return RopeConfig(theta=theta, scaling="factors")
    if kind == "linear":
        return RopeConfig(theta=theta, scaling="linear", factor=real(fields.number(f"{family}.rope.scaling.factor")))
    return RopeConfig(theta=theta)


def read_factors(file: GgufFile, config: ModelConfig, fields: JsonFields) -> NDArray[np.float32] | None:
    """The divisors in the file, checked: float32 [head_dim / 2], all finite and above 0."""
    if config.rope.scaling != "factors":
        return None
    tag, values = file.tensor(ROPE_FREQS)
    if tag != "f32" or values.shape != (config.head_dim // 2,):
        raise refuse(
            "zg/model/bad-shape",
            f"{fields.where}: {ROPE_FREQS}",
            f"{tag} {list(values.shape)}",
            f"f32 [{config.head_dim // 2}]",
        )
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise refuse(
            "zg/model/not-finite",
            f"{fields.where}: {ROPE_FREQS}",
            "a divisor that is not above 0",
            "finite divisors above 0",
        )
    return cast("NDArray[np.float32]", values)


def read_tokenizer(file: GgufFile) -> BpeTokenizer:
    """Byte-level BPE from `tokenizer.ggml.*`.

    Unused tokens at the end are padding of the embedding and are left out.
    """
    fields = plain_fields(file)
    for key, wanted in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2")):
        if not isinstance(fields.get(key), str) or fields.get(key) != wanted:
            raise refuse("zg/model/unknown-tokenizer", f"{fields.where}: {key}", fields.get(key), wanted)
    for key in ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix"):
        fields.flag(key, False)
    tokens, kinds = read_tokens(fields)
    while kinds and kinds[-1] == UNUSED:
        tokens, kinds = tokens[:-1], kinds[:-1]
    unknown = sorted(set(kinds) - {NORMAL, CONTROL, USER_DEFINED})
    if unknown:
        raise refuse(
            "zg/model/unknown-tokenizer",
            f"{fields.where}: tokenizer.ggml.token_type",
            unknown[0],
            "normal, control or user-defined",
        )
    specials = {token: id for id, token in enumerate(tokens) if kinds[id] == CONTROL}
    added = {token: id for id, token in enumerate(tokens) if kinds[id] == USER_DEFINED}
    return BpeTokenizer(
        tokens=tuple(tokens),
        merges=read_merges(fields),
        specials=specials,
        added=added,
        where=fields.where,
        token_bytes=tuple(
            token_bytes_of(token, fields.where) if kinds[id] == NORMAL else token.encode()
            for id, token in enumerate(tokens)
        ),
        chat_template=fields.text("tokenizer.chat_template")
        if fields.get("tokenizer.chat_template") is not None
        else "",
        bos=read_id(fields, "tokenizer.ggml.bos_token_id", len(tokens)),
        eos=read_id(fields, "tokenizer.ggml.eos_token_id", len(tokens)),
    )


def read_tokens(fields: JsonFields) -> tuple[list[str], list[int]]:
    """Texts and types by id: equally many, each text once."""
    tokens, kinds = fields.items("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.token_type")
    if not all(isinstance(token, str) and token for token in tokens) or len(set(tokens)) != len(tokens):
        raise refuse(
            "zg/model/bad-tokenizer",
            f"{fields.where}: tokenizer.ggml.tokens",
            "an empty text or one that stands twice",
            "different texts",
        )
    if not isinstance(kinds, np.ndarray) or kinds.dtype.kind not in "iu" or len(kinds) != len(tokens):
        raise refuse(
            "zg/model/bad-tokenizer",
            f"{fields.where}: tokenizer.ggml.token_type",
            type(kinds).__name__,
            f"{len(tokens)} whole numbers",
        )
    return list(tokens), [int(kind) for kind in kinds]


def read_merges(fields: JsonFields) -> tuple[tuple[str, str], ...]:
    """Pairs joined by a blank."""
    pairs: list[tuple[str, str]] = []
    for rank, text in enumerate(fields.items("tokenizer.ggml.merges")):
        parts = text.split(" ") if isinstance(text, str) else []
        if len(parts) != 2:
            raise refuse(
                "zg/model/bad-tokenizer",
                f"{fields.where}: tokenizer.ggml.merges[{rank}]",
                text,
                "two texts with a blank between",
            )
        pairs.append((parts[0], parts[1]))
    return tuple(pairs)


def read_id(fields: Mapping[str, Any] | JsonFields, key: str, count: int) -> int | None:
    """A token id inside the vocabulary, or None."""
    id = fields.get(key)
    if id is not None and (type(id) is not int or not 0 <= id < count):
        raise refuse("zg/model/bad-tokenizer", key, id, f"0 to {count - 1}")
    return id
