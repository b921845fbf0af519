"""ggml blocks against the gguf package, MLX groups against mlx, and repacking between them, all bit for bit (C4)."""

import importlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zeitgeist.convert.quantise import (
    BLOCKS,
    AffineGroups,
    affine_dequantise,
    affine_from_ggml,
    affine_quantise,
    dequantise,
    ggml_from_affine,
    quantise,
)
from zeitgeist.core.errors import ZeitgeistError

gguf = importlib.import_module("gguf")

QTYPE = {name: gguf.GGMLQuantizationType[name.removeprefix("ggml_").upper()] for name in BLOCKS}


def adversarial() -> np.ndarray:
    """Zeros, minus zeros, one spike, ties at .5, both signs equal, tiny, huge, constant."""
    rows = [
        np.zeros(32),
        -np.zeros(32),
        np.eye(32)[5] * -7,
        np.arange(32) - 15.5,
        np.tile([3, -3], 16),
        np.full(32, 2.5),
        np.arange(32) * 1e-6,
        np.linspace(-6e4, 6e4, 32),
        np.full(32, -1),
        np.arange(32) / 2,
        np.full(32, 127.5),
        np.full(32, 1e-30),
    ]
    return np.array(rows, np.float32)


def bits(array: np.ndarray) -> np.ndarray:
    """The raw bytes, so that -0.0 and 0.0 differ."""
    return np.ascontiguousarray(array).view(np.uint8)


@pytest.mark.requirement("C4")
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_equal_the_gguf_package_bit_for_bit(name: str) -> None:
    """Random data of several magnitudes and adversarial blocks: the same bytes, and the same values back (C4)."""
    rng = np.random.default_rng(1)
    data = np.concatenate([adversarial(), *(rng.standard_normal((200, 32)) * 10.0**e for e in (-6, -2, 0, 3))])
    data = data.astype(np.float32).reshape(-1, 4, 32)
    theirs = gguf.quants.quantize(data, QTYPE[name])
    assert np.array_equal(quantise(data, name), theirs)
    assert np.array_equal(bits(dequantise(theirs, name)), bits(gguf.quants.dequantize(theirs, QTYPE[name])))
    noise = rng.integers(0, 256, (50, 4 * BLOCKS[name].bytes)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, reference = dequantise(noise, name), gguf.quants.dequantize(noise, QTYPE[name])
    assert np.array_equal(ours, reference, equal_nan=True)


@pytest.mark.requirement("C4")
@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float32, (2, 64), elements=st.floats(-1e4, 1e4, width=32)),
    name=st.sampled_from(sorted(BLOCKS)),
)
def test_the_error_stays_within_half_a_step_of_the_scale(values: np.ndarray, name: str) -> None:
    """Q8_0 rounds to the nearest code, Q4_0 loses at most one step at the end without a code, Q4_1 half of (C4)."""
    blocks = values.reshape(-1, 32)
    step = {
        "ggml_q8_0": np.abs(blocks).max(1) / 127,
        "ggml_q4_0": np.abs(blocks).max(1) / 8,
        "ggml_q4_1": np.ptp(blocks, axis=1) / 15,
    }[name]
    error = np.abs(dequantise(quantise(values, name), name).reshape(-1, 32) - blocks).max(1)
    share = 1.0 if name == "ggml_q4_0" else 0.5
    rounding = np.abs(blocks).max(1) * 2.0**-10 + 2.0**-24 * 128
    assert (error <= step * share + rounding).all()


@pytest.mark.requirement("C4")
def test_a_value_beyond_the_scale_and_a_ragged_row_are_refused() -> None:
    """float16 scales end at 65,504; blocks do not straddle rows (C4)."""
    with pytest.raises(ZeitgeistError, match="zg/convert/overflow"):
        quantise(np.full((1, 32), 1e9, np.float32), "ggml_q8_0")
    with pytest.raises(ZeitgeistError, match="zg/convert/bad-form"):
        quantise(np.zeros((1, 40), np.float32), "ggml_q4_0")
    with pytest.raises(ZeitgeistError, match="ggml_q2_k"):
        quantise(np.zeros((1, 32), np.float32), "ggml_q2_k")


@pytest.mark.requirement("C4")
@pytest.mark.engine("mlx")
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bit_count", [4, 8])
def test_affine_groups_equal_what_mlx_stores(bit_count: int, group_size: int) -> None:
    """Codes, scales and biases of mx.quantize, bit for bit, also on adversarial rows (C4)."""
    mx = importlib.import_module("mlx.core")
    rng = np.random.default_rng(2)
    special = np.concatenate([adversarial()] * 4, axis=1)
    data = np.concatenate([special, rng.standard_normal((100, 128)), rng.standard_normal((100, 128)) * 300 + 40])
    data = data.astype(np.float32)
    weight, scales, biases = (np.array(part) for part in mx.quantize(mx.array(data), group_size, bit_count))
    ours = affine_quantise(data, bit_count, group_size)
    assert np.array_equal(ours.scales, scales)
    assert np.array_equal(ours.biases, biases)
    assert np.array_equal(ours.weight, weight)


@pytest.mark.requirement("C4")
@pytest.mark.engine("mlx")
@pytest.mark.parametrize("name", BLOCKS)
def test_repacked_ggml_rows_hold_the_same_numbers_for_mlx(name: str) -> None:
    """ggml → MLX → ggml gives the bytes back; mlx's own dequantize of it gives gguf's values bitwise (C4)."""
    mx = importlib.import_module("mlx.core")
    rows = quantise(np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32), name)
    groups = affine_from_ggml(rows, name)
    assert np.array_equal(ggml_from_affine(groups, name), rows)
    exact = dequantise(rows, name)
    assert np.array_equal(affine_dequantise(groups), exact)
    scales, biases = (mx.array(part.astype(np.float32)) for part in (groups.scales, groups.biases))
    theirs = mx.dequantize(mx.array(groups.weight), scales, biases, groups.group_size, groups.bits)
    assert np.array_equal(np.array(theirs), exact)


@pytest.mark.requirement("C4")
@pytest.mark.engine("mlx")
@pytest.mark.parametrize("name", BLOCKS)
def test_repacking_equals_what_mlx_makes_of_a_gguf_file(name: str, tmp_path) -> None:
    """mx.load of a GGUF with one tensor: the same three arrays as affine_from_ggml (C4)."""
    mx = importlib.import_module("mlx.core")
    rows = quantise(np.random.default_rng(4).standard_normal((8, 64)).astype(np.float32), name)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("x.weight", rows, raw_dtype=QTYPE[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = mx.load(str(tmp_path / "one.gguf"))
    groups = affine_from_ggml(rows, name)
    assert np.array_equal(np.array(loaded["x.weight"]), groups.weight)
    assert np.array_equal(np.array(loaded["x.scales"]), groups.scales)
    assert np.array_equal(np.array(loaded["x.biases"]), groups.biases)


@pytest.mark.requirement("C4")
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_mlx_four_bit_groups_become_q4_1_without_loss(group_size: int) -> None:
    """Groups with float16 scales, as engines keep them: equal values; wider groups repeat their scale (C4)."""
    full = affine_quantise(np.random.default_rng(5).standard_normal((16, 128)).astype(np.float32), 4, group_size)
    groups = AffineGroups(full.weight, full.scales.astype(np.float16), full.biases.astype(np.float16), 4, group_size)
    rows = ggml_from_affine(groups, "ggml_q4_1")
    assert np.array_equal(dequantise(rows, "ggml_q4_1"), affine_dequantise(groups))
    with pytest.raises(ZeitgeistError, match=r"scales.*zg/convert/not-exact"):
        ggml_from_affine(full, "ggml_q4_1")
    with pytest.raises(ZeitgeistError, match=r"biases.*zg/convert/not-exact"):
        ggml_from_affine(groups, "ggml_q4_0")
    with pytest.raises(ZeitgeistError, match="4 bits"):
        ggml_from_affine(groups, "ggml_q8_0")


@pytest.mark.requirement("C4")
def test_a_bias_beyond_float16_is_refused_not_rounded() -> None:
    """-128 · 600 does not fit float16 (C4)."""
    rows = quantise(np.full((1, 32), 600.0 * 127, np.float32), "ggml_q8_0")
    with pytest.raises(ZeitgeistError, match=r"biases.*zg/convert/not-exact"):
        affine_from_ggml(rows, "ggml_q8_0")
