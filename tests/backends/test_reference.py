"""The reference backend: near the oracle, bitwise independent of company and chunks, and strict about its arguments."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from certify.geometry import GEOMETRIES, write_geometry
from certify.oracle import Oracle
from zeitgeist.backends.base import LayerRange
from zeitgeist.backends.reference import VARIANTS, create
from zeitgeist.backends.reference_model import ReferenceModel
from zeitgeist.backends.registry import create as create_by_name
from zeitgeist.core.descriptors.backend import CAPABILITIES
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle

ZG_TINY = Path(__file__).parents[2] / "fixtures" / "models" / "zg-tiny"
IDS = [int(i) for i in np.arange(150, dtype=np.int64) ** 2 * 7919 % 104729 % 510 + 2]
OPTIONS = [{}, *(variant.options for variant in VARIANTS)]
INVARIANT = [options for options in OPTIONS if options.get("arithmetic") != "blocked"]
FLOAT32 = 64 * 2.0**-24
"""DESIGN §4: 64 units of float32's rounding times the largest logit; a transformer of a few layers stays below."""


@pytest.fixture(scope="module")
def bundle():
    """zg-tiny."""
    return open_bundle(ZG_TINY)


@pytest.fixture(scope="module")
def expected():
    """The oracle's logits of IDS on zg-tiny."""
    return Oracle.open(ZG_TINY).logits(IDS)


def loaded(bundle, options=None):
    """A backend with bundle loaded."""
    backend = create(options or {})
    backend.load(bundle)
    return backend


@pytest.fixture
def backend(bundle):
    """The plain reference on zg-tiny."""
    return loaded(bundle)


@pytest.mark.requirement("I2")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_variant_is_as_near_the_oracle_as_its_precision(options, bundle, expected):
    """DESIGN §4's float32 bound; a float16 cache costs 1e-3 relative at most (2^-11 for each number, measured 5e-4)."""
    backend = loaded(bundle, options)
    bound = {"x32": FLOAT32, "x16": 1e-3}[backend.describe().band] * np.abs(expected).max()
    logits = backend.prefill(backend.open(), IDS)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= bound


@pytest.mark.requirement("I2")
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry.name)
def test_the_reference_is_near_the_oracle_on_every_geometry(geometry, tmp_path):
    """The same bound; one token by decode after the rest by prefill."""
    model = write_geometry(geometry, 3, tmp_path / "model")
    backend, expected = loaded(open_bundle(model)), Oracle.open(model).logits(IDS)
    session = backend.open()
    logits = np.concatenate([backend.prefill(session, IDS[:-1]), backend.decode([session], IDS[-1:])])
    assert np.abs(logits - expected).max() <= FLOAT32 * np.abs(expected).max()


@pytest.mark.requirement("I2")
@pytest.mark.parametrize("options", INVARIANT, ids=str)
def test_chunks_steps_and_company_change_no_bit(options, bundle):
    """Prefill whole, in chunks of 1, 7 and 16, token by token, and in batches with sessions of other lengths."""
    backend = loaded(bundle, options)
    assert backend.describe().batch_invariant and backend.describe().chunk_invariant
    whole = backend.prefill(backend.open(), IDS[:80])
    for chunk in (1, 7, 16):
        assert np.array_equal(backend.prefill(backend.open(), IDS[:80], chunk=chunk), whole)
    sessions = [backend.open() for _ in range(5)]
    for i, session in enumerate(sessions):
        backend.prefill(session, IDS[: 3 + 15 * i])
    batch = backend.decode(sessions, [IDS[3 + 15 * i] for i in range(5)])
    assert np.array_equal(batch, whole[[3 + 15 * i for i in range(5)]])


@pytest.mark.requirement("I2")
def test_the_blocked_variant_is_honest_about_invariance(bundle):
    """It claims neither, and indeed chunks change bits: the tests above can fail."""
    backend = loaded(bundle, {"arithmetic": "blocked"})
    claims = backend.describe()
    assert not claims.batch_invariant and not claims.chunk_invariant
    whole = backend.prefill(backend.open(), IDS)
    assert not np.array_equal(backend.prefill(backend.open(), IDS, chunk=1), whole)


@pytest.mark.requirement("I1")
def test_forks_and_truncation_leave_others_alone(backend):
    """A fork forgets, and goes on with other tokens; both then equal fresh sessions of their tokens."""
    source = backend.open()
    backend.prefill(source, IDS[:60])
    twin = backend.fork(source)
    backend.truncate(twin, 20)
    backend.prefill(twin, IDS[100:140])
    fresh, other = backend.open(), backend.open()
    backend.prefill(fresh, IDS[:60])
    backend.prefill(other, [*IDS[:20], *IDS[100:140]])
    assert np.array_equal(backend.decode([source], [7]), backend.decode([fresh], [7]))
    assert np.array_equal(backend.decode([twin], [7]), backend.decode([other], [7]))
    assert (source.position_count, twin.position_count) == (61, 61)


@pytest.mark.requirement("I1")
def test_stages_equal_the_whole_bitwise(backend):
    """Three layer ranges, two calls each; hidden rows in between."""
    whole = backend.prefill(backend.open(), IDS[:40])
    stages = [backend.open(LayerRange(*edge)) for edge in ((0, 1), (1, 4), (4, 6))]
    rows = []
    for part in (IDS[:25], IDS[25:40]):
        x = part
        for stage in stages:
            x = backend.forward_range(stage, x)
        rows.append(x)
    assert np.array_equal(np.concatenate(rows), whole)


@pytest.mark.requirement("I1")
@pytest.mark.parametrize("options", [{}, {"cache": "f16"}], ids=str)
def test_an_exported_cache_continues_bitwise(options, bundle):
    """Into another backend of the same options; the export is a copy of the right shape and type."""
    maker, taker = loaded(bundle, options), loaded(bundle, options)
    session = maker.open()
    maker.prefill(session, IDS[:50])
    cache = maker.export_cache(session)
    assert {part.shape for part in (*cache.k, *cache.v)} == {(50, 2, 32)}
    assert cache.form == maker.describe().cache_forms[0]
    assert cache.k[0].dtype == (np.float16 if options else np.float32)
    imported = taker.import_cache(cache)
    assert np.array_equal(taker.prefill(imported, IDS[50:60]), maker.prefill(maker.fork(session), IDS[50:60]))
    for part in (*cache.k, *cache.v):
        part[:] = 0
    assert np.array_equal(taker.decode([imported], [9]), maker.prefill(session, [*IDS[50:60], 9])[-1:])


@pytest.mark.requirement("I1")
def test_a_cancelled_prefill_leaves_the_session_as_it_was(backend):
    """Cancelled before the third of four chunks; then the same prefill gives the same bits."""
    session = backend.open()
    backend.prefill(session, IDS[:10])
    answers = iter([False, False, True])
    with pytest.raises(ZeitgeistError, match="zg/backend/cancelled"):
        backend.prefill(session, IDS[10:50], chunk=10, cancelled=lambda: next(answers))
    assert session.position_count == 10
    assert np.array_equal(backend.prefill(session, IDS[10:50]), backend.prefill(backend.open(), IDS[:50])[10:])


@pytest.mark.requirement("I1")
def test_only_the_last_row_on_request(backend):
    """rows="last" is the last row of rows="all"."""
    assert np.array_equal(backend.prefill(backend.open(), IDS, rows="last"), backend.prefill(backend.open(), IDS)[-1:])


@pytest.mark.requirement("I1")
def test_text_goes_through_the_bundles_tokenizer(backend, bundle):
    """Any text comes back byte for byte."""
    text = "Zeitgeist: the naïve 1st test …\n\t🙂 end"
    assert backend.detokenize(backend.tokenize(text)) == text.encode()
    assert backend.tokenize(text) == bundle.tokenizer.encode(text)


@pytest.mark.requirement("I1")
def test_counters_count(backend):
    """Tokens, sessions, imports."""
    session = backend.open()
    backend.prefill(session, IDS[:30])
    backend.decode([session], [3])
    other = backend.import_cache(backend.export_cache(session))
    backend.close(session)
    assert backend.metrics() == {
        "tokens_prefilled": 30,
        "tokens_decoded": 1,
        "cache_exports": 1,
        "cache_imports": 1,
        "sessions_open": 1,
    }
    backend.close(other)
    assert backend.metrics()["sessions_open"] == 0


@pytest.mark.requirement("I1")
def test_claims_are_complete(backend):
    """Every capability, the library's digest, the variants by name through the registry."""
    assert backend.describe().capabilities == CAPABILITIES
    assert backend.describe().libraries[0].digest.startswith("blake3:")
    assert backend.describe().context_max == 4096
    names = [variant.name for variant in VARIANTS]
    assert [create_by_name(f"reference:{name}", {}).describe().variant for name in names] == names


@pytest.mark.requirement("I1")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda b, s: b.prefill(s, []), "bad-argument"),
        (lambda b, s: b.prefill(s, [512]), "bad-argument"),
        (lambda b, s: b.prefill(s, [-1]), "bad-argument"),
        (lambda b, s: b.prefill(s, [1], chunk=-1), "bad-argument"),
        (lambda b, s: b.decode([s, s], [1, 2]), "bad-argument"),
        (lambda b, s: b.decode([s], [1, 2]), "bad-argument"),
        (lambda b, s: b.truncate(s, 9), "bad-argument"),
        (lambda b, s: b.open(LayerRange(3, 3)), "bad-argument"),
        (lambda b, s: b.open(LayerRange(0, 7)), "bad-argument"),
        (lambda b, s: b.prefill(b.open(LayerRange(0, 2)), [1]), "bad-argument"),
        (lambda b, s: b.forward_range(b.open(LayerRange(2, 4)), np.zeros((1, 7), np.float32)), "bad-argument"),
        (lambda b, s: b.prefill(s, [2] * 4092), "context-full"),
        (lambda b, s: create({"colour": "red"}), "bad-argument"),
        (lambda b, s: create({"chunk": "0"}), "bad-argument"),
        (lambda b, s: create({}).open(), "no-model"),
        (lambda b, s: [b.close(s), b.decode([s], [1])], "no-such-session"),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, error, backend):
    """Before anything changes: the session still holds its five tokens."""
    session = backend.open()
    backend.prefill(session, IDS[:5])
    with pytest.raises(ZeitgeistError, match=f"zg/backend/{error}"):
        call(backend, session)
    assert session.position_count == 5


@pytest.mark.requirement("I1")
def test_can_serve_names_every_reason(backend, bundle):
    """Odd head_dim and a broken query group, both at once; the real model has none."""
    broken = msgspec.structs.replace(bundle.config, head_dim=33, kv_head_count=3)
    reasons = " ".join(backend.can_serve(broken, "f32").reasons)
    assert "head_dim" in reasons and "kv_head_count" in reasons
    assert backend.can_serve(bundle.config, "f32").ok


@pytest.mark.requirement("I2")
def test_a_long_position_keeps_its_accuracy(bundle):
    """1,000 positions: rotary angles are formed in float64."""
    ids = (IDS * 7)[:1000]
    expected = Oracle.open(ZG_TINY).logits(ids)
    backend = loaded(bundle)
    logits = backend.prefill(backend.open(), ids)
    assert np.abs(logits - expected).max() <= FLOAT32 * np.abs(expected).max()


class ModuloHeads(ReferenceModel):
    """A defect by one overridden method: query heads dealt round over KV heads."""

    def kv_head_of(self, query_head):
        return query_head % self.config.kv_head_count


@pytest.mark.requirement("I2")
def test_one_overridden_method_is_enough_to_be_wrong(bundle, expected):
    """What certify's mutants rely on, and proof that the bound above can fail."""
    backend = create({})
    backend.model_class = ModuloHeads
    backend.load(bundle)
    assert np.abs(backend.prefill(backend.open(), IDS) - expected).max() > 100 * FLOAT32 * np.abs(expected).max()
