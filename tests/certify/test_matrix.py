"""The matrix: every ordered pair is a cell, a refusal has its reason, numbers are those of family X (D4)."""

from pathlib import Path
from typing import Any

import pytest

from certify.matrix import form_text, measure, measured_cells, pipelines_of
from certify.profile import load_profile
from certify.verdict import Verdict
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, ElementForm

MODEL = Path(__file__).parents[2] / "fixtures" / "models" / "zg-tiny"
PROFILE = load_profile()


@pytest.mark.requirement("D4", "F8")
def test_each_ordered_pair_is_a_cell_and_progress_is_said_for_each() -> None:
    """Two variants of the reference: four cells, no pipeline of one engine with itself (D4)."""
    said: list[dict[str, Any]] = []
    cells = measure(("reference", "reference:kv-f16"), MODEL, PROFILE, 0, said.append)
    assert [(cell.exporter, cell.importer) for cell in cells] == [
        (a, b) for a in ("reference", "reference:kv-f16") for b in ("reference", "reference:kv-f16")
    ]
    assert said[0] == {"total": 4} and [line["verdict"] for line in said[1:]] == [cell.verdict.value for cell in cells]
    first, to_half, to_full, last = cells
    assert first.verdict is Verdict.EXACT and last.verdict is Verdict.EXACT and float(first.loss) == 0
    assert to_half.verdict is Verdict.PASS and to_half.mode == "conversion" and to_half.form == "f32 half → f16 half"
    assert float(to_full.loss) <= float(to_full.loss_limit) and to_full.bytes_count < first.bytes_count
    assert all(float(cell.poison) >= PROFILE["exchange.poison"] for cell in cells)


def test_a_subject_without_caches_is_unsupported_in_words_not_a_gap() -> None:
    """None stands for a subject that claims too little (D3)."""
    cells = list(measured_cells({"a": None, "b": None}, [("a", "b")], PROFILE))
    assert [cell.verdict for cell in cells] == [Verdict.UNSUPPORTED] * 5
    assert all("cache_import" in cell.detail and cell.mode == "refused" for cell in cells)
    assert cells[-1].exporter == "a>b" and cells[-1].importer == "" and "layer_range" in cells[-1].detail


@pytest.mark.requirement("F8")
def test_pipelines_are_of_different_engines_all_orders_of_two_and_of_three() -> None:
    """Variants of one engine are no mixed pipeline (F8)."""
    assert pipelines_of(["a", "a:x"]) == []
    assert set(pipelines_of(["a", "b", "b:y"])) == {("a", "b"), ("b", "a")}
    three = pipelines_of(["a", "b", "c", "d"])
    assert len([chain for chain in three if len(chain) == 2]) == 12
    assert len([chain for chain in three if len(chain) == 3]) == 6


def test_a_form_reads_as_text() -> None:
    """Blocks, rotation, pairing."""
    assert form_text(F32_HALF) == "f32 half"
    mixed = CacheForm(
        k=ElementForm(dtype="", quant="ggml_q8_0", hadamard=64), v=ElementForm(dtype="f16"), pairing="half"
    )
    assert form_text(mixed) == "ggml_q8_0+H64/f16 half"
