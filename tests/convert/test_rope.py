"""Re-pairing and the Hadamard rotation, against their definitions (D2)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.convert import hadamard
from zeitgeist.convert.rope import repair
from zeitgeist.core.errors import ZeitgeistError


@pytest.mark.requirement("D2")
@settings(max_examples=60, deadline=None)
@given(
    positions=st.integers(0, 70),
    heads=st.integers(1, 5),
    pairs=st.integers(1, 70),
    dtype=st.sampled_from([np.float32, np.float16, np.uint16]),
    strided=st.booleans(),
)
def test_repairing_is_the_published_permutation_and_its_inverse(
    positions: int, heads: int, pairs: int, dtype: type, strided: bool
) -> None:
    """half → interleaved puts element i at 2i and i + D/2 at 2i + 1; the way back restores every bit (D2)."""
    rng = np.random.default_rng(positions)
    bits = rng.integers(0, 256, (positions, heads, 2 * pairs * np.dtype(dtype).itemsize), np.uint8)
    keys = bits.view(dtype)[::-1] if strided else bits.view(dtype)
    moved = repair(keys, "half", "interleaved")
    order = [i // 2 + (i % 2) * pairs for i in range(2 * pairs)]
    assert moved.tobytes() == keys[..., order].tobytes()
    assert repair(moved, "interleaved", "half").tobytes() == keys.tobytes()
    assert repair(keys, "half", "half") is keys


@pytest.mark.requirement("D2")
def test_repairing_refuses_an_odd_head_and_no_pairs() -> None:
    """Nothing is guessed (D2)."""
    with pytest.raises(ZeitgeistError, match="head_dim 5"):
        repair(np.zeros((1, 1, 5), np.float32), "half", "interleaved")
    with pytest.raises(ZeitgeistError, match="none"):
        repair(np.zeros((1, 1, 4), np.float32), "none", "half")


@pytest.mark.requirement("D2")
@pytest.mark.parametrize(("block", "head_dim"), [(2, 2), (32, 32), (64, 64), (64, 128), (128, 128), (64, 192)])
def test_the_rotation_is_sylvesters_matrix_over_root_n(block: int, head_dim: int) -> None:
    """Against H built by doubling, in float64: within (log2 n + 1) roundings; twice gives the input back (D2)."""
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    values = np.random.default_rng(6).standard_normal((9, 3, head_dim)).astype(np.float32)
    wanted = (values.astype(np.float64).reshape(9, 3, -1, block) @ matrix / np.sqrt(block)).reshape(values.shape)
    # Each butterfly rounds once a level; the norm of a block bounds every partial sum after scaling.
    bound = (np.log2(block) + 2) * 2.0**-24 * np.sqrt(block) * np.abs(values).max() * 2
    rotated = hadamard.rotate(values, block)
    assert np.abs(rotated - wanted).max() < bound
    assert np.abs(hadamard.rotate(rotated, block) - values).max() < 2 * bound
    assert np.abs(rotated - values).max() > 0.1


@pytest.mark.requirement("D2")
def test_llama_cpp_chooses_the_block_by_the_head() -> None:
    """64 and above for K, 64 for V, none for heads that 64 does not divide (research note, 4.2)."""
    sizes = (32, 64, 80, 96, 128, 192, 256)
    assert [hadamard.key_block(size) for size in sizes] == [0, 64, 0, 0, 128, 64, 256]
    assert [hadamard.value_block(size) for size in sizes] == [0, 64, 0, 0, 64, 64, 64]
    with pytest.raises(ZeitgeistError, match="hadamard"):
        hadamard.rotate(np.zeros((1, 96), np.float32), 64)
