"""The cache descriptor: everything that must agree before an engine may see a byte of a KV cache (A5, D1, DESIGN §4).

Each field has a negative vector that is refused with the field's name; `convert/admit.py` holds the checks.
"""

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.kv import CacheForm, RopeState
from zeitgeist.core.ids import Digest

__all__ = ["CacheDescriptor", "Extension"]


class Extension(Record, frozen=True, kw_only=True):
    """A vendor's addition. Unknown and critical: refused by name. Otherwise kept and digested."""

    critical: bool
    body: bytes


class CacheDescriptor(Record, frozen=True, kw_only=True):
    """One cache: whose numbers, of which tokens, in which form.

    model, tokenizer: digests of `ModelDescriptor`; adapter: digest of a LoRA or ""; tokens: `tokens_digest` of the ids;
    position_first, position_count: the valid range; padded_count: rows present in the payload, ≥ position_count,
    rows past position_count are never read; layer_first, layer_count: the slice of the model's layers held;
    window: sliding-window size or 0; sink: attention-sink tokens or 0; latent, hybrid: "" — anything else is refused;
    layers: BLAKE3 per layer over the valid rows of K then V; made_by: engine and build, for people.
    """

    cache_version: int = 1
    format_version: int
    made_by: str
    model: Digest
    tokenizer: Digest
    adapter: str
    tokens: Digest
    position_first: int
    position_count: int
    padded_count: int
    layer_first: int
    layer_count: int
    kv_head_count: int
    head_dim: int
    form: CacheForm
    rope: RopeState
    window: int
    sink: int
    latent: str
    hybrid: str
    layers: tuple[Digest, ...]
    extensions: dict[str, Extension] = {}  # noqa: RUF012 - msgspec copies an empty default
