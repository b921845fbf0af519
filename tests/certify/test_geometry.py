"""The geometry models: the shapes that were asked for, the same bytes from the same seed, sane logits."""

from pathlib import Path

import numpy as np
import pytest

from certify.geometry import GEOMETRIES, Geometry, geometry_config, write_geometry
from zeitgeist.models.bundle import open_bundle


@pytest.mark.requirement("D4")
def test_the_table_covers_what_the_suite_promises() -> None:
    """kv_heads 1 and 2, head_dim 64, 80, 128, GQA 1, 4, 7, ties, bases, both scalings, all three families."""

    def seen(name: str) -> set[object]:
        return {getattr(geometry, name) for geometry in GEOMETRIES}

    assert seen("kv_head_count") == {1, 2} and seen("head_dim") == {64, 80, 128} and seen("tied_head") == {True, False}
    assert {geometry.head_count // geometry.kv_head_count for geometry in GEOMETRIES} == {1, 4, 7}
    assert seen("theta") >= {"10000.0", "500000.0", "1000000.0"} and seen("scaling") == {"none", "linear", "llama3"}
    assert seen("family") == {"llama", "qwen2", "qwen3"} and len(seen("name")) == len(GEOMETRIES)


@pytest.mark.requirement("D4")
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry.name)
def test_name_and_seed_decide_the_bytes_and_the_configuration_is_the_one_asked_for(
    geometry: Geometry, tmp_path: Path
) -> None:
    """Written twice: equal artifacts; another seed: another model; what is read back is what was meant."""
    one, again, other = (
        open_bundle(write_geometry(geometry, seed, tmp_path / name / "m"))
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert one.descriptor() == again.descriptor()
    assert one.descriptor().model != other.descriptor().model
    assert one.config == geometry_config(geometry) and one.tied_head == geometry.tied_head


@pytest.mark.requirement("D4")
def test_llama3_scaling_changes_divisors_that_matter_within_the_context(tmp_path: Path) -> None:
    """Some pairs unscaled, some by the full factor, some between: else a reader that ignores it would go unseen."""
    geometry = next(g for g in GEOMETRIES if g.scaling == "llama3")
    factors = open_bundle(write_geometry(geometry, 0, tmp_path)).rope_factors()
    assert factors.min() == 1 and factors.max() == 8 and ((factors > 1) & (factors < 8)).sum() >= 2
    assert np.all(np.diff(factors) >= 0)
