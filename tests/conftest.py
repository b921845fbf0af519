"""One switch for all property tests: `ZG_PROPERTY_FACTOR=10` runs ten times the examples (`make nightly`), 1/5 a fifth
(`make check`)."""

import os
from fractions import Fraction

import pytest
from hypothesis import is_hypothesis_test, settings

FACTOR = Fraction(os.environ.get("ZG_PROPERTY_FACTOR", "1"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each property keeps its own settings but for the number of examples."""
    if FACTOR == 1:
        return
    for item in items:
        test = getattr(item, "obj", None)
        if isinstance(item, pytest.Function) and is_hypothesis_test(test) and not hasattr(test, "zg_scaled"):
            own = getattr(test, "_hypothesis_internal_use_settings", None) or settings.default
            assert own is not None
            scaled = settings(own, max_examples=max(1, int(own.max_examples * FACTOR)), deadline=None)
            target = getattr(test, "__func__", test)
            target._hypothesis_internal_use_settings = scaled
            target.zg_scaled = True
