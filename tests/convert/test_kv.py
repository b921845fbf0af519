"""A cache in memory: arrays and descriptor agree, digests cover the valid rows and nothing else (D1)."""

import numpy as np
import pytest
from cache_samples import IDS, MODEL, ROPE, TOKENIZER, form_of, small_cache

from zeitgeist.convert.kv import layer_digests, make_cache
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.kv import F32_HALF


@pytest.mark.requirement("D1")
def test_layer_digests_see_every_valid_row_and_no_padding() -> None:
    """Change padding: same digests. Change one bit of a valid row, or swap heads: another for that layer (D1)."""
    cache = small_cache()
    cache.k[1][len(IDS) :] = 7
    assert layer_digests(cache.k, cache.v, len(IDS)) == cache.descriptor.layers
    cache.v[1].view(np.uint32)[len(IDS) - 1, 1, 31] ^= 1
    found = layer_digests(cache.k, cache.v, len(IDS))
    assert [a == b for a, b in zip(found, cache.descriptor.layers, strict=True)] == [True, False, True]
    cache = small_cache()
    cache.k[2][:] = cache.k[2][:, ::-1].copy()
    assert layer_digests(cache.k, cache.v, len(IDS))[2] != cache.descriptor.layers[2]


@pytest.mark.requirement("D1")
@pytest.mark.parametrize("k", ["f32", "f16", "bf16", "ggml_q8_0", "ggml_q4_0", "ggml_q4_1"])
def test_every_element_form_has_one_array_shape(k: str) -> None:
    """make_cache accepts the arrays of a form and refuses those of any other (D1)."""
    cache = small_cache(form_of(k, "f32"))
    assert cache.valid("k", 0).shape[0] == len(IDS)
    for other in ("f32", "f16", "ggml_q8_0"):
        if other != k:
            with pytest.raises(ZeitgeistError, match=r"layer\.0\.k.*zg/cache/shape"):
                make_cache(
                    cache.k,
                    cache.v,
                    IDS,
                    head_dim=32,
                    form=form_of(other, "f32"),
                    model=MODEL,
                    tokenizer=TOKENIZER,
                    rope=ROPE,
                    made_by="test",
                )


@pytest.mark.requirement("D1")
def test_arrays_that_cannot_be_a_cache_are_refused() -> None:
    """No layers, one V missing, fewer rows than tokens, blocks that do not divide the head (D1)."""
    cache = small_cache()
    facts = {"form": F32_HALF, "model": MODEL, "tokenizer": TOKENIZER, "rope": ROPE, "made_by": "test"}
    with pytest.raises(ZeitgeistError, match="0 and 0 layers"):
        make_cache([], [], IDS, head_dim=32, **facts)
    with pytest.raises(ZeitgeistError, match="3 and 2 layers"):
        make_cache(cache.k, cache.v[:2], IDS, head_dim=32, **facts)
    with pytest.raises(ZeitgeistError, match="at least 9"):
        make_cache(cache.k, cache.v, range(9), head_dim=32, **facts)
    with pytest.raises(ZeitgeistError, match="head_dim"):
        make_cache(cache.k, cache.v, IDS, head_dim=40, **{**facts, "form": form_of("ggml_q8_0")})
