"""Digests that say what a model is, and how two artifacts relate (A3, DESIGN §5).

`model` is a BLAKE3 Merkle root over one leaf for the constants and one for each canonical tensor as float32, so the
Hugging Face, GGUF and MLX forms of one model have one digest. Leaves and nodes begin with different bytes, as in RFC
6962, so that a node can never be passed off as a leaf. A NaN or an infinity in a weight is refused.
"""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.canonical import Record, encode
from zeitgeist.core.ids import Digest, Real
from zeitgeist.models.tokenizer_bpe import BpeTokenizer

__all__ = [
    "PROBE_TEXT",
    "Identifiable",
    "artifact_digest",
    "describe_identity",
    "model_digest",
    "tokenizer_digest",
    "vocabulary_digest",
]

PROBE_TEXT = (
    "The quick brown fox can't jump; we'll see, it's 2026!\n\n\tdef f(x):\r\n        return x[0] + 3.14159  # done   \n"
    " naïve Ünïcödé Ελληνικά русский עברית العربية हिन्दी"
    " 日本語 한국어 ½ ² Ⅷ 🙂👩‍👩‍👧 e\u0301 \u00a0\u3000 don'T 'tis '\x00\x1c\x7f"
)
"""The published probe text. A tokenizer's digest covers the ids it gives, which settles rules that data do not show."""


Form = Literal["hf", "safetensors", "gguf", "mlx"]


class Identifiable(Protocol):
    """What an identity is made of."""

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> Form: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tied_head(self) -> bool: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def tokenizer(self) -> BpeTokenizer: ...
    @property
    def weights(self) -> str: ...
    @property
    def parameter_count(self) -> int: ...

    def names(self) -> "tuple[str, ...]": ...
    def tensor(self, name: str) -> NDArray[np.float32]: ...
    def rope_factors(self) -> NDArray[np.float32]: ...


class Constants(Record, frozen=True, kw_only=True):
    """What changes the numbers besides tensors: not the context length, and of the rope the divisors, not the words."""

    family: str
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    norm_eps: Real
    rope_theta: Real
    qkv_bias: bool
    qk_norm: bool


class Vocabulary(Record, frozen=True, kw_only=True):
    """Bytes by id."""

    token_bytes: tuple[bytes, ...]


class TokenizerIdentity(Record, frozen=True, kw_only=True):
    """All that decides which ids a text gets, and the ids of the probe text as witness."""

    token_bytes: tuple[bytes, ...]
    merges: tuple[tuple[str, str], ...]
    specials: dict[str, int]
    added: dict[str, int]
    chat_template: str
    probe: tuple[int, ...]


def content(prefix: bytes, *parts: bytes | memoryview) -> Digest:
    """`blake3:` over a domain prefix, a zero byte and the parts."""
    state = blake3(prefix + b"\x00")
    for part in parts:
        state.update(part)
    return Digest("blake3:" + state.hexdigest())


def describe_identity(model: Identifiable) -> ModelDescriptor:
    """Read everything once and describe it."""
    return ModelDescriptor(
        name=model.name,
        form=model.form,
        config=model.config,
        tied_head=model.tied_head,
        parameter_count=model.parameter_count,
        weights=model.weights,
        artifact=artifact_digest(model.files),
        model=model_digest(model),
        tokenizer=tokenizer_digest(model.tokenizer),
        vocabulary=vocabulary_digest(model.tokenizer),
    )


def artifact_digest(files: tuple[Path, ...]) -> Digest:
    """Over name and content of each file, by name: the same files in another directory are the same artifact."""
    state = blake3(b"zg-artifact\x00")
    for path in sorted(files, key=lambda path: path.name):
        try:
            inner = blake3().update_mmap(path).digest()
        except OSError as error:
            raise RemoteProtocolError("zg/model/unreadable", str(error.strerror or error), str(path)) from error
        state.update(len(path.name.encode()).to_bytes(4, "little") + path.name.encode() + inner)
    return Digest("blake3:" + state.hexdigest())


def model_digest(model: Identifiable) -> Digest:
    """Merkle root over constants, rope divisors and every tensor in canonical order."""
    leaves = [leaf("constants", encode(constants(model.config))), array_leaf("rope_factors", model.rope_factors())]
    tied_leaf: bytes | None = None
    for name in model.names():
        if name == "head" and model.tied_head and tied_leaf is not None:
            leaves.append(leaf_over_inner("head", tied_leaf))
            continue
        inner = array_inner(name, model.tensor(name))
        tied_leaf = inner if name == "embed" else tied_leaf
        leaves.append(leaf_over_inner(name, inner))
    return Digest("blake3:" + merkle_root(leaves).hex())


def constants(config: ModelConfig) -> Constants:
    """The constants of a configuration."""
    return Constants(
        family=config.family,
        hidden_size=config.hidden_size,
        layer_count=config.layer_count,
        head_count=config.head_count,
        kv_head_count=config.kv_head_count,
        head_dim=config.head_dim,
        ffn_size=config.ffn_size,
        vocab_size=config.vocab_size,
        norm_eps=config.norm_eps,
        rope_theta=config.rope.theta,
        qkv_bias=config.qkv_bias,
        qk_norm=config.qk_norm,
    )


def leaf(name: str, data: bytes) -> bytes:
    """A leaf over plain bytes."""
    return leaf_over_inner(name, blake3(data).digest())


def array_leaf(name: str, values: NDArray[np.float32]) -> bytes:
    """A leaf over an array."""
    return leaf_over_inner(name, array_inner(name, values))


def leaf_over_inner(name: str, inner: bytes) -> bytes:
    """Name and digest of the content: so a tied head costs no second pass over the embedding."""
    return blake3(b"\x00zg-leaf\x00" + name.encode() + b"\x00" + inner).digest()


def array_inner(name: str, values: NDArray[np.float32]) -> bytes:
    """Digest of shape and little-endian float32 bytes; refuses NaN and infinities."""
    if not np.isfinite(values).all():
        raise refuse(
            "zg/model/not-finite",
            name,
            f"{int((~np.isfinite(values)).sum())} numbers that are not finite",
            "finite weights",
        )
    shape = b"".join(size.to_bytes(8, "little") for size in values.shape)
    state = blake3(bytes([values.ndim]) + shape)
    state.update(np.ascontiguousarray(values, "<f4").tobytes())
    return state.digest()


def merkle_root(leaves: list[bytes]) -> bytes:
    """Pairs are hashed level by level; an odd one at the end moves up as it is."""
    level = leaves
    while len(level) > 1:
        pairs = [
            blake3(b"\x01zg-node\x00" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def tokenizer_digest(tokenizer: BpeTokenizer) -> Digest:
    """Over the data and the ids of the probe text, control tokens read as plain text."""
    return content(
        b"zg-tokenizer",
        encode(
            TokenizerIdentity(
                token_bytes=tokenizer.token_bytes,
                merges=tokenizer.merges,
                specials=tokenizer.specials,
                added=tokenizer.added,
                chat_template=tokenizer.chat_template,
                probe=tuple(tokenizer.encode(PROBE_TEXT)),
            )
        ),
    )


def vocabulary_digest(tokenizer: BpeTokenizer) -> Digest:
    """Over bytes by id alone: two tokenizers with one vocabulary can exchange tokens, not texts."""
    return content(b"zg-vocabulary", encode(Vocabulary(token_bytes=tokenizer.token_bytes)))
