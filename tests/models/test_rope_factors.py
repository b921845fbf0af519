"""Rotary divisors against a second derivation."""

import importlib
import math

import numpy as np
import pytest

from zeitgeist.core.descriptors.model import RopeConfig
from zeitgeist.core.ids import Real
from zeitgeist.models.rope_factors import rope_factors

LLAMA31 = RopeConfig(
    theta=Real("500000.0"),
    scaling="llama3",
    factor=Real("8.0"),
    low_freq_factor=Real("1.0"),
    high_freq_factor=Real("4.0"),
    original_context=8192,
)


@pytest.mark.requirement("A3")
def test_llama3_divisors_are_those_of_the_published_loop() -> None:
    """The loop over wavelengths as Meta and llama.cpp's converter write it, in Python floats."""
    for head_dim in (64, 80, 128):
        wanted = []
        for pair in range(head_dim // 2):
            wavelength = 2 * math.pi * 500000.0 ** (2 * pair / head_dim)
            if wavelength < 8192 / 4:
                wanted.append(1.0)
            elif wavelength > 8192 / 1:
                wanted.append(8.0)
            else:
                smooth = (8192 / wavelength - 1) / (4 - 1)
                wanted.append(1 / ((1 - smooth) / 8 + smooth))
        found = rope_factors(LLAMA31, head_dim)
        assert found.dtype == np.float32 and len({1.0, 8.0} & set(found.tolist())) == 2
        # one rounding to float32: half an ulp, 2^-24, and the same again for the two orders of operations in float64
        assert np.allclose(found, wanted, rtol=2.0**-23, atol=0)


@pytest.mark.requirement("A3")
@pytest.mark.engine("torch")
def test_llama3_divisors_are_those_of_transformers() -> None:
    """Inverse frequencies of transformers, which computes them in float32.

    Tolerance: rounding the power's exponent, up to ln 500000 = 13.1, to float32 moves the result by 13.1 * 2^-24;
    twice that.
    """
    importlib.import_module("transformers")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, head_dim=64, rope_parameters=rope)
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    ours = 500000.0 ** -(np.arange(32) / 32) / rope_factors(LLAMA31, 64)
    assert np.allclose(inverse.numpy(), ours, rtol=2 * 13.2 * 2.0**-24, atol=0)


@pytest.mark.requirement("A3")
def test_unscaled_and_linear_divisors_are_constant() -> None:
    """Ones, and the factor."""
    assert rope_factors(RopeConfig(theta=Real("10000.0")), 6).tolist() == [1, 1, 1]
    assert rope_factors(RopeConfig(theta=Real("10000.0"), scaling="linear", factor=Real("4.0")), 6).tolist() == [
        4,
        4,
        4,
    ]
