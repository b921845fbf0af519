"""A KV cache leaves an engine with its identity, and enters one only after admission and conversion (D1–D4, DESIGN §4).

Out: what the engine holds, in its native form, without loss; the digests of model, tokenizer, tokens and layers are
added here. In: SafeTensors bytes → `convert.kv_file.load` → `convert.admit` against the receiver's own model and the
ids that the caller continues → `convert.path` into a form that the adapter takes. An adapter sees arrays only.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import blake3
import msgspec
import numpy as np
from numpy.typing import NDArray

from zeitgeist.backends.base import CacheArrays, LayerRange
from zeitgeist.convert import kv_file
from zeitgeist.convert.admit import CacheExpectation, admit
from zeitgeist.convert.kv import KVCache, make_cache
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.kv import CacheForm, RopeState

if TYPE_CHECKING:
    from zeitgeist.host.service import Held, Service

__all__ = ["admitted", "export_cache", "rope_state"]


def rope_state(service: "Service") -> RopeState:
    """Rotary state that every cache of the loaded model has; factors: BLAKE3 of the divisors, float32 little-endian."""
    rope = service.config.rope
    assert service.bundle is not None
    factors = np.ascontiguousarray(service.bundle.rope_factors(), dtype="<f4")
    return RopeState(
        theta=rope.theta, scaling=rope.scaling, factors=f"blake3:{blake3.blake3(factors.tobytes()).hexdigest()}"
    )


def export_cache(service: "Service", held: "Held") -> bytearray:
    """SafeTensors bytes of the session's cache in the engine's native form. Refused when the tokens are not known."""
    if held.ids is None:
        raise LocalProtocolError("zg/backend/tokens-unknown", "hidden rows came without their ids", "session")
    if not held.ids:
        raise LocalProtocolError(
            "zg/backend/bad-argument", "got an empty session, wanted at least one token", "session"
        )
    arrays = service.cache_of(held)
    claims = service.describe()
    cache = make_cache(
        arrays.k,
        arrays.v,
        held.ids,
        head_dim=service.config.head_dim,
        form=arrays.form,
        model=service.loaded.model,
        tokenizer=service.loaded.tokenizer,
        rope=rope_state(service),
        made_by=f"{claims.name} {claims.version}"[:200],
        layer_first=held.session.layers.first,
    )
    return kv_file.dump(cache)


def admitted(
    service: "Service", data: NDArray[np.uint8], ids: Sequence[int], layers: LayerRange
) -> tuple[CacheArrays, str]:
    """(arrays in a form that the adapter takes, JSON of the conversion). Refuses what `convert.admit` does."""
    cache = kv_file.load(data.data)
    expect = CacheExpectation(
        model=service.loaded.model,
        tokenizer=service.loaded.tokenizer,
        ids=ids,
        kv_head_count=service.config.kv_head_count,
        head_dim=service.config.head_dim,
        rope=rope_state(service),
        layer_first=layers.first,
        layer_count=layers.stop - layers.first,
    )
    admit(cache, expect)
    converted, report = to_form(cache, service.describe().cache_forms)
    count = cache.descriptor.position_count
    arrays = CacheArrays(
        form=converted.descriptor.form,
        k=[k[:count] for k in converted.k],
        v=[v[:count] for v in converted.v],
        position_count=count,
    )
    return arrays, report


def to_form(cache: KVCache, forms: Sequence[CacheForm]) -> tuple[KVCache, str]:
    """The cache in the first of forms, or as it is when it has one of them already."""
    if cache.descriptor.form in forms:
        return cache, ""
    from zeitgeist.convert.path import convert_cache

    converted, report = convert_cache(cache, forms[0])
    return converted, json.dumps(msgspec.to_builtins(report), sort_keys=True)
