"""Relations of artifacts: proven from the numbers, refused to strangers."""

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from certify.geometry import GEOMETRIES, write_geometry
from zeitgeist.models.block_bounds import error_bound_affine, error_bound_ggml
from zeitgeist.models.bundle import ModelBundle, open_bundle
from zeitgeist.models.opened import OpenedModel
from zeitgeist.models.relation import relation
from zeitgeist.models.to_gguf import write_gguf

KINDS = {
    "f32.gguf": ("exact", "f32"),
    "mlx-f32": ("exact", "f32"),
    "f16.gguf": ("rounded", "f16"),
    "q8_0.gguf": ("quantised", "ggml_q8_0"),
    "q4_0.gguf": ("quantised", "ggml_q4_0"),
    "q4_1.gguf": ("quantised", "ggml_q4_1"),
    "mlx-8bit": ("quantised", "mlx_affine_8_32"),
    "mlx-4bit": ("quantised", "mlx_affine_4_32"),
}


@pytest.mark.requirement("A3")
@pytest.mark.requirement("C4")
@pytest.mark.parametrize("form", KINDS)
def test_every_form_is_proven_to_come_from_its_parent(zg_tiny: ModelBundle, forms: dict[str, Path], form: str) -> None:
    """Exact by digest, rounded by rounding again, quantised within the bound of each block."""
    found = relation(open_bundle(forms[form]), zg_tiny)
    assert (found.kind, found.schema) == KINDS[form]
    assert found.parent == zg_tiny.descriptor().model


class Nudged:
    """The source of a model with one number moved by a share of its block's bound, or by 1e-6."""

    def __init__(self, model: OpenedModel, name: str, share: float) -> None:
        self.inner, self.name, self.share = model.source, name, share
        self.raw, self.bound = model.source.raw, model.source.bound

    def values(self, name: str) -> np.ndarray:
        values = self.inner.values(name)
        if name == self.name:
            values = values.copy()
            bound = self.inner.bound(name)
            values[1, 2] += self.share * float(bound[1, 0]) if bound is not None else 1e-6
        return values


@pytest.mark.requirement("A3")
@pytest.mark.requirement("C4")
@pytest.mark.parametrize("form", [form for form, (kind, _) in KINDS.items() if kind != "exact"])
def test_one_number_outside_its_bound_is_no_longer_proven(
    zg_tiny: ModelBundle, forms: dict[str, Path], form: str
) -> None:
    """Two bounds away in one of 1.3 M numbers: only claimed by its name, and unrelated under another name."""
    child = cast("OpenedModel", open_bundle(forms[form]))
    for name, kind in (("zg-tiny", "claimed"), ("zg-tiny-mlx", "claimed"), ("somebody", "unrelated")):
        moved = dataclasses.replace(child, name=name, source=Nudged(child, "layers.3.q", 2.0))
        found = relation(moved, zg_tiny)
        assert found.kind == kind and found.evidence.startswith("layers.3.q")


@pytest.mark.requirement("A3")
def test_a_model_of_the_same_shape_and_another_seed_is_unrelated(tmp_path: Path) -> None:
    """Same constants, same names, same tokenizer, other numbers, also when quantised; and another shape."""
    one, other = (open_bundle(write_geometry(GEOMETRIES[0], seed, tmp_path / f"seed{seed}")) for seed in (1, 2))
    assert relation(one, other).kind == "unrelated"
    quantised = open_bundle(write_gguf(one, tmp_path / "one.gguf", "q8_0"))
    assert relation(quantised, one).kind == "quantised" and relation(quantised, other).kind == "unrelated"
    third = open_bundle(write_geometry(GEOMETRIES[1], 1, tmp_path / "third"))
    assert relation(third, one).kind == "unrelated"


@pytest.mark.requirement("C4")
def test_the_block_bounds_hold_for_honest_quantisers_and_are_not_loose() -> None:
    """Blocks of four sizes, offsets and with outliers.

    The largest error reaches at least 90 % of the bound of each schema.
    """
    from zeitgeist.convert.quantise import affine_dequantise, affine_quantise, dequantise, quantise

    noise = np.random.default_rng(7)
    rows = np.concatenate(
        [noise.standard_normal((400, 256)) * 10.0**power + offset for power in (-3, 0, 2) for offset in (0, 1, -3)]
    ).astype(np.float32)
    rows[::7, 5] *= 20
    for schema in ("ggml_q8_0", "ggml_q4_0", "ggml_q4_1"):
        packed = quantise(rows, schema)
        error = np.abs(dequantise(packed, schema) - rows).reshape(len(rows), -1, 32).max(axis=2)
        assert 0.9 < (error / error_bound_ggml(schema, packed)).max() <= 1, schema
    for bits in (4, 8):
        groups = affine_quantise(rows, bits, 32)
        error = np.abs(affine_dequantise(groups) - rows).reshape(len(rows), -1, 32).max(axis=2)
        assert 0.9 < (error / error_bound_affine(groups.scales, groups.biases, bits, "f32")).max() <= 1, bits
