"""Metrics of errors (W2), against closed forms, and each shown to see what the mean does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify import tolerance

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(20, 64)) * 4


@pytest.mark.requirement("W2")
def test_kl_of_two_known_distributions() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln 3 / 2; a shift of all logits changes nothing."""
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert tolerance.mean_kl(p, q) == pytest.approx(np.log(2) - np.log(3) / 2, abs=1e-15)
    assert tolerance.mean_kl(LOGITS, LOGITS + 1000.0) < 1e-12


@pytest.mark.requirement("W2")
@given(st.integers(0, 2**32 - 1))
def test_kl_is_never_negative_and_zero_only_for_equal(seed: int) -> None:
    """Gibbs, up to rounding."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 3, 8)) * 3
    assert tolerance.kl(a, b).min() > -1e-12
    assert tolerance.mean_kl(a, a) == 0.0


@pytest.mark.requirement("W2")
def test_nan_never_looks_good() -> None:
    """One NaN: KL is NaN (which no limit admits), the worst row is infinitely wrong, the maximum is NaN."""
    spoilt = LOGITS.copy()
    spoilt[7, 3] = np.nan
    assert np.isnan(tolerance.mean_kl(LOGITS, spoilt)) and np.isnan(tolerance.max_abs(LOGITS, spoilt))
    worst = tolerance.worst_row(spoilt, LOGITS)
    assert worst.row == 7 and worst.units == np.inf and "column 3" in worst.text


@pytest.mark.requirement("W2")
def test_top1_does_not_count_near_ties() -> None:
    """Rows: a clear one that flips, a near tie that flips, a clear one that holds."""
    reference = np.array([[2.0, 0.0], [1.0, 1.0 - 1e-6], [0.0, 3.0]])
    observed = np.array([[0.0, 2.0], [1.0, 1.5], [0.0, 3.0]])
    assert tolerance.top1(reference, observed, 1e-4) == (0.5, 2)
    nothing, counted = tolerance.top1(reference, observed, 10.0)
    assert np.isnan(nothing) and counted == 0, "no row left is no success"


@pytest.mark.requirement("W2")
def test_the_worst_row_sees_what_the_mean_hides() -> None:
    """One of 20 rows off by 100 u: mean error is 5 u, the worst row says 100."""
    observed = LOGITS.copy()
    observed[11] *= 1 + 100 * 2.0**-24
    found = tolerance.worst_row(observed, LOGITS, 24)
    assert found.row == 11 and found.units == pytest.approx(100, rel=1e-6)
    with pytest.raises(ValueError):
        tolerance.worst_row(observed[:5], LOGITS)


@pytest.mark.requirement("W2")
def test_ulp_allows_for_cancellation_and_for_nothing_else() -> None:
    """A float32 sum that cancels is far off in plain ULP, within its condition; one bit in a plain product is one
    ULP."""
    a = np.array([1e6, 1.0, -1e6], np.float32)
    reference, magnitude = np.array([1.0]), np.array([np.abs(a).sum()])
    assert tolerance.condition_ulp(np.array([1.0 + 0.05]), reference, magnitude) == 0.0
    off = np.array([np.nextafter(np.float32(3.0), np.float32(4.0))])
    assert tolerance.condition_ulp(off, np.array([3.0]), np.array([0.0])) == 1.0
    assert tolerance.condition_ulp(np.array([np.nan]), np.array([3.0]), np.array([9.0])) == np.inf


@pytest.mark.requirement("W2")
def test_the_noise_floor_is_the_widest_spread_and_needs_two_runs() -> None:
    """Three runs, the extremes in different runs."""
    assert tolerance.noise_floor([LOGITS, LOGITS]) == 0.0
    assert tolerance.noise_floor([LOGITS, LOGITS + 1.0, LOGITS - 2.0]) == pytest.approx(3.0)
    with pytest.raises(ValueError):
        tolerance.noise_floor([LOGITS])
