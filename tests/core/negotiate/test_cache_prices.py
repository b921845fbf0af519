"""The core's price of a cache conversion, held to what the converter really does (B2, D3)."""

from itertools import product

import pytest

from zeitgeist.convert.path import find_path
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.kv import CacheForm, ElementForm
from zeitgeist.core.negotiate.caches import price_of

pytestmark = pytest.mark.requirement("B2")

ELEMENTS = [
    *(ElementForm(dtype=dtype) for dtype in ("f32", "f16", "bf16")),
    *(ElementForm(dtype="", quant=quant) for quant in ("ggml_q8_0", "ggml_q4_0", "ggml_q4_1")),
    ElementForm(dtype="", quant="ggml_q8_0", hadamard=64),
    ElementForm(dtype="", quant="ggml_q4_0", hadamard=64),
    ElementForm(dtype="f64"),
    ElementForm(dtype="f32", hadamard=64),
    ElementForm(dtype="", quant="mlx_affine_8_64"),
    ElementForm(dtype="f16", quant="ggml_q8_0"),
    ElementForm(dtype="", quant="ggml_q8_0", hadamard=48),
]
"""The last five are refused by the converter."""

FORMS = [
    CacheForm(k=element, v=ElementForm(dtype="f32"), pairing=pairing, keys_rotated=rotated)
    for element, pairing, rotated in product(ELEMENTS, ("half", "interleaved", "none"), (True, False))
]


@pytest.mark.parametrize("head_dim", [64, 80])
def test_the_core_and_the_converter_agree_on_every_pair_of_forms(head_dim) -> None:
    """Possible or not, nothing to do or something, exact or not: the same verdict for 6,084 pairs."""
    possible = 0
    for source, target in product(FORMS, FORMS):
        price = price_of(source, target, head_dim)
        try:
            path = find_path(source, target, head_dim)
        except ZeitgeistError:
            assert price.blocks or source == target, (source, target)
            continue
        possible += 1
        assert not price.blocks, (source, target, price.blocks)
        assert bool(price.conversions) == bool(path.k or path.v), (source, target)
        exact = all(step.exact for step in price.conversions)
        assert exact == (path.price == "exact"), (source, target, price.conversions, path.explain())
        assert len(price.conversions) == len(path.k) + len(path.v), (source, target, path.explain())
    assert possible > (500 if head_dim == 64 else 50)


def test_a_cost_counts_bytes_read_and_written_for_each_byte_carried() -> None:
    """f32 to f16: 4 + 2 bytes for each 4; q8_0 to f32: 34 + 128 for each 34; both rounded up."""
    f32, f16 = (CacheForm(k=ElementForm(dtype=d), v=ElementForm(dtype="f32"), pairing="half") for d in ("f32", "f16"))
    q8 = CacheForm(k=ElementForm(dtype="", quant="ggml_q8_0"), v=ElementForm(dtype="f32"), pairing="half")
    assert [step.cost for step in price_of(f32, f16, 64).conversions] == [2]
    assert [step.cost for step in price_of(f16, f32, 64).conversions] == [3]
    assert [step.cost for step in price_of(q8, f32, 64).conversions] == [5]
    assert [step.cost for step in price_of(f32, q8, 64).conversions] == [2]
