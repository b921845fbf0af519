"""An exchange is measured rightly: the suite reads every form by itself and sees every cheat at an import (D4)."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from exchange_samples import IDS, SAMPLE_FORMS, form_of, sample_cache
from gguf import GGMLQuantizationType, quants

from certify import exchange
from certify.cache_numbers import decoded, form_band, numbers, rounding_excess, row_distance
from certify.exchange import CONTINUED, GREEDY, PREFILLED, Station, carry, exchange_bounds, exchange_ids, station
from certify.matrix import exchange_cell
from certify.oracle import Oracle
from certify.pipelines import cuts_of, pipe, pipe_bounds, run_pipeline
from certify.profile import load_profile
from certify.subject import start_subject
from certify.verdict import Verdict
from zeitgeist.convert.kv import KVCache
from zeitgeist.core.formats.kv import CacheForm, ElementForm

MODEL = Path(__file__).parents[2] / "fixtures" / "models" / "zg-tiny"
PROFILE = load_profile()
QUANTS = {
    "ggml_q8_0": GGMLQuantizationType.Q8_0,
    "ggml_q4_0": GGMLQuantizationType.Q4_0,
    "ggml_q4_1": GGMLQuantizationType.Q4_1,
}


@cache
def oracle() -> Oracle:
    """Of zg-tiny."""
    return Oracle.open(MODEL)


@pytest.fixture(scope="module")
def honest() -> Iterator[Station]:
    """The reference backend, measured."""
    with start_subject("reference", "", MODEL, 60) as worker:
        yield station("reference", worker, oracle(), exchange_ids(MODEL, 0))


@pytest.mark.requirement("D4", "C4")
@pytest.mark.parametrize("name", QUANTS)
def test_blocks_are_decoded_as_ggml_decodes_them(name: str) -> None:
    """Against gguf's own dequantiser, in float32, number for number; the product's code is not asked."""
    rows = np.random.default_rng(1).standard_normal((5, 2, 64)).astype(np.float32)
    stored = quants.quantize(rows, QUANTS[name])
    assert np.array_equal(
        decoded(stored, ElementForm(dtype="", quant=name)).astype(np.float32), quants.dequantize(stored, QUANTS[name])
    )


@pytest.mark.requirement("D2", "D4")
@pytest.mark.parametrize("form", SAMPLE_FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}")
def test_an_honest_conversion_stays_within_honest_rounding_and_a_tenth_more_does_not(form: CacheForm) -> None:
    """Converted by the product, read back by the suite; then one number is moved by two steps (D2)."""
    sent = sample_cache()
    held = sample_cache(form)
    assert rounding_excess(held, sent) <= PROFILE["exchange.rounding"]
    v = [array.copy() for array in held.v]
    if form.v.quant:
        v[1][2, 1, 5] ^= 0x04 if form.v.quant == "ggml_q8_0" else 0x22
    else:
        v[1].view(np.uint8)[2, 1, v[1].itemsize * 5] ^= 0x06
    assert rounding_excess(KVCache(held.descriptor, held.k, v), sent) > PROFILE["exchange.rounding"]


@pytest.mark.parametrize("form", SAMPLE_FORMS, ids=lambda form: f"{form.k.dtype}{form.k.quant}")
def test_pairs_and_rotation_are_taken_off(form: CacheForm) -> None:
    """Rows are near to the float32 ones in every form; with the other pairing read they are not (D2)."""
    import msgspec

    truth, held = numbers(sample_cache()), sample_cache(form)
    near = {"x32": 0.0, "x16": 5e-3, "q8": 2e-2, "q4": 0.25}[form_band(form)]
    assert row_distance(numbers(held), truth)[0] <= near
    other = "half" if form.pairing == "interleaved" else "interleaved"
    wrong = msgspec.structs.replace(held.descriptor, form=msgspec.structs.replace(form, pairing=other))
    assert row_distance(numbers(KVCache(wrong, held.k, held.v)), truth)[0] > 1


def test_a_row_that_is_not_a_number_is_infinitely_far_and_named() -> None:
    """NaN never passes for near, nor does another shape."""
    truth, found = numbers(sample_cache()), numbers(sample_cache())
    found.v[2][4, 1, 0] = np.nan
    distance, where = row_distance(found, truth)
    assert distance > 1e300 and "V of layer 2, position 4, head 1" in where
    found.v[2] = found.v[2][:-1]
    assert row_distance(found, truth)[0] == float("inf")


def test_the_text_is_of_the_seed_alone() -> None:
    """147 ids, equal for every process; other seeds give other places of the passage."""
    assert exchange_ids(MODEL, 3) == exchange_ids(MODEL, 3) != exchange_ids(MODEL, 4)
    assert len(exchange_ids(MODEL, 3)) == PREFILLED + CONTINUED


@pytest.mark.requirement("D4")
def test_an_honest_pair_satisfies_every_bound_and_the_twin_proves_use(honest: Station) -> None:
    """Reference to itself: not a bit lost, the poisoned twin moves logits by more than one (D4)."""
    carried = carry(honest, honest, PROFILE)
    assert all(bound.holds for bound in exchange_bounds(carried, PROFILE))
    assert carried.loss == 0 and carried.mode == "native" and carried.poison > 1 and carried.excess == 0


@pytest.mark.requirement("D4", "W4")
@pytest.mark.parametrize(
    ("service", "caught"),
    [
        ("Recomputes", {"poisoned twin moves the output", "numbers held against numbers sent"}),
        ("SwapsHeads", {"loss", "numbers held against numbers sent"}),
        ("Forgets", {"loss", "numbers held against numbers sent"}),
    ],
)
def test_each_wrong_import_breaks_the_bound_meant_for_it(
    honest: Station, service: str, caught: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An importer that recomputes gives right logits: only the twin and the numbers it holds show it (D4)."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with start_subject("reference", f"exchange_samples:{service}", MODEL, 60) as worker:
        wrong = station(service, worker, oracle(), exchange_ids(MODEL, 0))
        broken = {bound.name for bound in exchange_bounds(carry(honest, wrong, PROFILE), PROFILE) if not bound.holds}
    assert caught <= broken
    assert service != "Recomputes" or "loss" not in broken


@pytest.mark.requirement("D4")
def test_a_lossy_importer_is_held_to_the_cache_it_has(honest: Station) -> None:
    """Float16: loss in its band, fidelity to the float16 numbers, conversion named (D4)."""
    with start_subject("reference:kv-f16", "", MODEL, 60) as worker:
        half = station("reference:kv-f16", worker, oracle(), exchange_ids(MODEL, 0))
        carried = carry(honest, half, PROFILE)
    assert [bound.text for bound in exchange_bounds(carried, PROFILE) if not bound.holds] == []
    assert carried.mode == "conversion" and carried.band == "x16" and carried.loss > 0 and 0 < carried.excess <= 1


def parted(at: int, margin: float) -> tuple[list[int], list[float]]:
    """A walk that differs from 0, 1, 2 … at one step, and margins that are wide but there."""
    ids = list(range(GREEDY))
    if at < GREEDY:
        ids[at] = 99
    return ids, [margin if step == at else 50.0 for step in range(GREEDY)]


@pytest.mark.requirement("D4")
@pytest.mark.parametrize(
    ("at", "margin", "band", "verdict", "words"),
    [
        (16, 50.0, "x32", Verdict.EXACT, "16 of 16 greedy tokens equal, export"),
        (5, 0.0, "x32", Verdict.EXACT, "5 of 16 greedy tokens equal, then a near-tie, export"),
        (5, 50.0, "x32", Verdict.FAIL, "greedy tokens equal is 5 tokens, below 16"),
        (3, 0.0, "x32", Verdict.INCONCLUSIVE, "3 of 16 greedy tokens equal, then a near-tie: too few"),
        (3, 0.0, "x16", Verdict.INCONCLUSIVE, "3 of 16 greedy tokens equal, then a near-tie: too few"),
        (3, 0.0, "q4", Verdict.EXACT, "too few to judge, information only"),
        (0, 50.0, "q4", Verdict.FAIL, "greedy tokens equal is 0 tokens, below 16"),
    ],
)
def test_greedy_says_how_many_tokens_were_compared(
    honest: Station, monkeypatch: pytest.MonkeyPatch, at: int, margin: float, band: str, verdict: Verdict, words: str
) -> None:
    """The walk of the import is planted; all else is the reference to itself. A near-tie is never called 16 (D4)."""
    ids, margins = parted(at, margin)
    monkeypatch.setitem(vars(honest), "greedy", (list(range(GREEDY)), margins))
    monkeypatch.setattr(exchange, "greedy_walk", lambda *_: (ids, margins))
    monkeypatch.setattr(exchange, "worst_band", lambda *_: band)
    carried = carry(honest, honest, PROFILE)
    cell = exchange_cell(honest, honest, carried, exchange_bounds(carried, PROFILE))
    assert carried.greedy == at and cell.verdict is verdict and words in cell.detail


@pytest.mark.requirement("D4", "W2")
def test_top1_without_a_clear_row_is_not_judged(honest: Station) -> None:
    """No bound, no number in the matrix, and said; with rows it is a bound that a wrong row breaks (W2)."""
    import dataclasses

    carried = carry(honest, honest, PROFILE)
    assert carried.top1_rows > 0 and "top-1" in {bound.name for bound in exchange_bounds(carried, PROFILE)}
    empty = dataclasses.replace(carried, top1=float("nan"), top1_rows=0)
    bounds = exchange_bounds(empty, PROFILE)
    cell = exchange_cell(honest, honest, empty, bounds)
    assert "top-1" not in {bound.name for bound in bounds} and cell.top1 == "" and "top-1 not judged" in cell.detail
    assert not all(bound.holds for bound in exchange_bounds(dataclasses.replace(carried, top1=0.0), PROFILE))


@pytest.mark.requirement("F8")
def test_stages_of_the_reference_are_bitwise_solo_and_a_wrong_cut_is_seen(honest: Station) -> None:
    """Every cut of two; a pipeline that runs a layer twice breaks both bounds (F8)."""
    ids = honest.ids[: PREFILLED + 16]
    layers = honest.cache.descriptor.layer_count
    for cut in range(1, layers):
        assert run_pipeline([honest.worker] * 2, (0, cut, layers), ids).tobytes() == honest.steps.tobytes()
    assert all(bound.holds for bound in pipe_bounds(pipe([honest] * 3, cuts_of(layers, 3), PROFILE)))
    broken = run_pipeline([honest.worker] * 2, (0, 3, layers), [ids[0], *ids[:-1]])
    assert float(np.abs(broken - honest.steps).max()) > 1


def test_layers_are_cut_evenly_and_completely() -> None:
    """Also where they do not divide (F8)."""
    assert cuts_of(6, 3) == (0, 2, 4, 6) and cuts_of(5, 2)[0] == 0 and cuts_of(5, 2)[-1] == 5
    assert form_band(form_of("f32", "ggml_q8_0", "half")) == "q8" and len(IDS) == 6
