"""The canonical KV cache: axes by name, and the form in which one engine holds keys and values (DESIGN §4).

Axes are always `layer, (k|v), position, kv_head, head_dim`. A form says how the numbers along these axes are stored:
element type or block quantisation, Hadamard rotation, rotary pairing. Law: shape never tells the layout, the form does.
"""

from typing import Literal

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import Real

__all__ = ["CACHE_FORMAT_VERSION", "F32_HALF", "CacheForm", "ElementForm", "Pairing", "RopeState"]

CACHE_FORMAT_VERSION = 1

Pairing = Literal["half", "interleaved", "none"]
"""How rotary pairs lie in head_dim: `half` pairs (i, i + D/2), `interleaved` pairs (2i, 2i + 1), `none`: no rotary."""


class ElementForm(Record, frozen=True, kw_only=True):
    """How one number, or one block of numbers, of K or of V is stored.

    dtype: a name in `formats/dtype.py` (`f32`, `f16`, `bf16`), or "" when quantised;
    quant: a schema name in `formats/quant.py` (`ggml_q8_0`, `ggml_q4_0` …), or "" when not. Blocks run along head_dim;
    hadamard: block size of an orthonormal Walsh-Hadamard rotation applied per head before storing, 0 for none.
    """

    dtype: str
    quant: str = ""
    hadamard: int = 0


class CacheForm(Record, frozen=True, kw_only=True):
    """A whole form: keys, values, and the rotary state of the keys."""

    k: ElementForm
    v: ElementForm
    pairing: Pairing
    keys_rotated: bool = True


F32_HALF = CacheForm(k=ElementForm(dtype="f32"), v=ElementForm(dtype="f32"), pairing="half")
"""The canonical exchange form: float32, keys after rotation, half-split pairs."""


class RopeState(Record, frozen=True, kw_only=True):
    """Rotary state of the keys in a cache.

    theta: base; scaling: `none`, `linear` or `llama3` …; factors: digest of the per-pair divisors of the inverse
    frequencies (float32, head_dim / 2 values; all ones when unscaled); offset: added to every position.
    """

    theta: Real
    scaling: str
    factors: str
    offset: int = 0
