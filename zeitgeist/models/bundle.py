"""A model on disk, in any form, seen as canonical configuration, canonical tensors and tokenizer (A3, R3).

Canonical tensor names: `embed`,
`layers.<i>.{attn_norm,q,k,v,o,q_bias,k_bias,v_bias,q_norm,k_norm,ffn_norm,gate,up,down}`, `norm`, `head`. Matrices are
`[out, in]`; q and k rows are in half-split rotary order whatever the file holds; a tied head is given as the
embedding. Nothing is executed: pickle, remote code and unknown architectures are refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor
from zeitgeist.core.errors import refuse
from zeitgeist.models.gguf_model import open_gguf_model
from zeitgeist.models.hf import open_directory, open_weights_file

__all__ = ["ModelBundle", "TokenizerData", "open_bundle"]


class TokenizerData(Protocol):
    """Byte-level BPE as data: bytes by id, merges in rank order, special ids with their texts; and what it does."""

    @property
    def token_bytes(self) -> tuple[bytes, ...]: ...
    @property
    def merges(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def specials(self) -> dict[str, int]: ...
    @property
    def chat_template(self) -> str: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """Ids of text, nothing added. specials: texts of control tokens become these tokens, else plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids; partial UTF-8 as it is."""
        ...


class ModelBundle(Protocol):
    """An opened model. Tensors are read from disk when asked for; closing is not needed."""

    @property
    def path(self) -> Path: ...
    @property
    def form(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tied_head(self) -> bool: ...
    @property
    def weights(self) -> str: ...
    @property
    def tokenizer(self) -> TokenizerData: ...

    def descriptor(self) -> ModelDescriptor:
        """Identity with all digests; reads every tensor once, then cached."""
        ...

    def names(self) -> Sequence[str]:
        """Canonical tensor names, in canonical order."""
        ...

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Values of one tensor, dequantised, canonical order, float32."""
        ...

    def rope_factors(self) -> NDArray[np.float32]:
        """Divisors of the inverse frequencies, float32 `[head_dim / 2]`; ones when unscaled."""
        ...

    def block_bound(self, name: str) -> NDArray[np.float32] | None:
        """Quantised: largest distance of a value from its parent, [out, blocks], canonical rows.

        None when not quantised.
        """
        ...

    def raw(self, name: str) -> tuple[str, NDArray[Any]]:
        """(dtype or quantisation schema, stored data as in the file, rows permuted as the file has them).

        bf16 as uint16; GGUF blocks uint8 [out, row_bytes]; MLX affine uint32 [out, words], levels only.
        """
        ...


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy")
PROGRAMS = (
    ".onnx",
    ".torchscript",
    ".ts",
    ".h5",
    ".keras",
    ".pb",
    ".tflite",
    ".mlmodel",
    ".mlpackage",
    ".ggml",
    ".llamafile",
    ".zip",
)
READ = "a directory (Hugging Face, MLX), .gguf, or .safetensors or .npz beside its config.json"


def open_bundle(path: Path) -> ModelBundle:
    """Open a directory (Hugging Face, MLX), a `.gguf`, a `.safetensors` or `.npz` beside its config; refuse anything
    else by name.

    Errors: `zg/model/not-found`, `zg/model/refused-format` (never opened), and those of the form's reader.
    """
    if path.is_dir():
        refuse_directory_without_weights(path)
        return open_directory(path)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise refuse("zg/model/refused-format", path.name, f"{suffix}, a form that can hold pickled code", READ)
    if suffix in PROGRAMS:
        raise refuse("zg/model/refused-format", path.name, suffix, READ)
    if not path.is_file():
        raise refuse("zg/model/not-found", str(path), "no file or directory of this name", READ)
    if suffix == ".gguf":
        return open_gguf_model(path)
    if suffix in (".safetensors", ".npz"):
        return open_weights_file(path)
    raise refuse("zg/model/refused-format", path.name, suffix or "no suffix", READ)


def refuse_directory_without_weights(path: Path) -> None:
    """A directory whose only weights are pickles or programs is refused by the name of one of them."""
    names = sorted(entry.name for entry in path.iterdir())
    readable = [
        name for name in names if name.endswith((".safetensors", ".safetensors.index.json")) or name == "weights.npz"
    ]
    refused = [name for name in names if name.lower().endswith((*PICKLES, *PROGRAMS))]
    if refused and not readable:
        raise refuse(
            "zg/model/refused-format", f"{path.name}: {refused[0]}", "weights in a form that can hold code", READ
        )
