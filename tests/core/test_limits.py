"""Limits: named once, with a reason each, and true of real records."""

import msgspec
import pytest

from fixtures.golden_records import SAMPLES
from zeitgeist.core import limits
from zeitgeist.core.descriptors.cache import Extension
from zeitgeist.core.formats.canonical import encode


@pytest.mark.requirement("C1")
def test_every_bound_is_in_the_table_with_a_reason() -> None:
    """The constants and the table are one thing; names are unique."""
    constants = {name: getattr(limits, name) for name in limits.__all__ if name not in ("LIMITS", "Limit")}
    assert {limit.name.upper(): limit.value for limit in limits.LIMITS} == constants
    assert all(len(limit.reason) > 20 and limit.value > 0 for limit in limits.LIMITS)


@pytest.mark.requirement("A5")
def test_the_largest_cache_descriptor_fits_its_limit() -> None:
    """As many layers and extensions as are allowed, and full ones: what the reason of the limit says."""
    sample = SAMPLES["cache-descriptor"]
    full = Extension(critical=False, body=b"x" * limits.EXTENSION_BYTES_MAX)
    largest = msgspec.structs.replace(
        sample,
        layers=sample.layers * limits.LAYER_COUNT_MAX,
        extensions={f"{i:0{64}}": full for i in range(limits.EXTENSION_COUNT_MAX)},
    )
    assert limits.DESCRIPTOR_BYTES_MAX // 2 < len(encode(largest)) <= limits.DESCRIPTOR_BYTES_MAX
