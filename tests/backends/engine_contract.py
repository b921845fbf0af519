"""What every array engine must keep of backends/base.py, as a class of tests that each adapter's file inherits."""

import importlib.util
from pathlib import Path
from typing import Any

import blake3
import engine_models as models
import llama_geometry
import numpy as np
import pytest
from engine_models import PROMPT, distance, tolerance

from zeitgeist.backends.base import CacheArrays, LayerRange
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle

THIRDS = (LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6))


class EngineContract:
    """A subclass names `module`, the adapter, and `library_file`, a file in site-packages that it must have loaded."""

    module: Any
    library_file: str

    @classmethod
    def loaded(cls, name: str = "llama", **options: str) -> Any:
        """The adapter with these options and this geometry."""
        backend = cls.module.create(options)
        backend.load(models.model(name).bundle)
        return backend

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Any:
        """One loaded adapter for the class; tests open sessions of their own."""
        return cls.loaded()

    @pytest.mark.requirement("I3")
    @pytest.mark.parametrize("name", models.GEOMETRIES)
    def test_logits_of_every_geometry_are_those_of_float64(self, name: str):
        """Whole prompt, against transformers in float64, within 64 ulp of the largest logit (DESIGN §4)."""
        backend, truth = self.loaded(name), models.model(name).logits
        assert distance(backend.prefill(backend.open(), PROMPT), truth) <= tolerance(truth)

    @pytest.mark.requirement("R3")
    @pytest.mark.parametrize(
        "geometry",
        [
            llama_geometry.Geometry(),
            llama_geometry.Geometry(family="qwen2", hidden=128),
            llama_geometry.Geometry(family="qwen3", head_dim=64),
            llama_geometry.Geometry(encoding="Q4_0", hidden=128),
            llama_geometry.Geometry(divisors=np.linspace(1, 4, 16).astype(np.float32)),
        ],
        ids=["llama", "qwen2", "qwen3", "q4_0", "divisors"],
    )
    def test_a_gguf_runs_from_its_canonical_tensors(self, geometry: llama_geometry.Geometry, tmp_path: Path):
        """Un-permuted, dequantised, rotary divisors applied; against a float64 pass over what the file holds.

        These models have logits of up to 40 from attention scores of up to 100, so that the condition is about 4 times
        that of the others.
        """
        geometry.bundle(tmp_path / "x.gguf")
        backend = self.module.create({})
        bundle = open_bundle(tmp_path / "x.gguf")
        backend.load(bundle)
        ids = [token % 250 for token in PROMPT[:60]]
        truth = llama_geometry.forward(geometry, ids)[0]
        assert distance(backend.prefill(backend.open(), ids), truth) <= 4 * tolerance(truth)
        assert backend.tokenize("the then é") == bundle.tokenizer.encode("the then é")

    @pytest.mark.requirement("F8")
    @pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
    def test_three_stages_give_the_bits_of_the_whole(self, dtype: str):
        """ids → hidden → hidden → logits through three sessions, prompt and then one token at a time."""
        backend = self.loaded(dtype=dtype)
        whole, stages = backend.open(), [backend.open(layers) for layers in THIRDS]
        for part in (PROMPT[:20], *([token] for token in PROMPT[20:24])):
            x: Any = part
            for stage in stages:
                x = backend.forward_range(stage, x)
            assert np.array_equal(x, backend.prefill(whole, part))

    @pytest.mark.requirement("I3")
    def test_a_ragged_batch_of_forks_equals_each_alone(self, engine: Any):
        """Lengths 0 to 77 in one decode, five steps, two forks of one session among them."""
        sessions = [engine.open() for _ in range(5)]
        for session, count in zip(sessions, (0, 1, 5, 40, 77), strict=True):
            if count:
                engine.prefill(session, PROMPT[:count])
        sessions += [engine.fork(sessions[3]), engine.fork(sessions[3])]
        alone = [engine.fork(session) for session in sessions]
        for step in range(5):
            ids = [(31 * step + 17 * row) % 512 for row in range(len(sessions))]
            together = engine.decode(sessions, ids)
            pairs = zip(alone, ids, strict=True)
            apart = np.concatenate([engine.decode([session], [token]) for session, token in pairs])
            assert distance(together, apart) <= tolerance(apart)

    @pytest.mark.requirement("I3")
    def test_a_fork_is_independent_bitwise(self, engine: Any):
        """The origin keeps its cache and its next logits, bit for bit, while a fork goes elsewhere."""
        origin, witness = engine.open(), engine.open()
        for session in (origin, witness):
            engine.prefill(session, PROMPT[:30])
        fork = engine.fork(origin)
        for token in (5, 6, 7):
            engine.decode([fork], [token])
        engine.truncate(fork, 3)
        engine.prefill(fork, PROMPT[50:90])
        for one, other in zip(planes(engine.export_cache(origin)), planes(engine.export_cache(witness)), strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(engine.decode([origin], [9]), engine.decode([witness], [9]))

    @pytest.mark.requirement("I3")
    @pytest.mark.parametrize("kept", [0, 1, 17])
    def test_a_truncated_session_is_one_that_never_went_further(self, engine: Any, kept: int):
        """Bitwise, cache and logits, after the same calls."""
        cut, fresh = engine.open(), engine.open()
        if kept:
            engine.prefill(cut, PROMPT[:kept])
            engine.prefill(fresh, PROMPT[:kept])
        engine.prefill(cut, PROMPT[60:90])
        engine.truncate(cut, kept)
        assert cut.position_count == kept
        assert np.array_equal(engine.prefill(cut, PROMPT[90:95]), engine.prefill(fresh, PROMPT[90:95]))

    @pytest.mark.requirement("D2")
    @pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
    def test_an_exported_cache_comes_back_bit_for_bit(self, dtype: str):
        """Whole and middle stage; shapes [position, kv_head, head_dim]; the import owns copies."""
        backend = self.loaded(dtype=dtype)
        session = backend.open()
        backend.prefill(session, PROMPT[:70])
        cache = backend.export_cache(session)
        assert cache.form.k.dtype == dtype and cache.k[0].shape == (70, 2, 32) and len(cache.k) == len(cache.v) == 6
        twin = backend.import_cache(cache)
        for plane in planes(cache):
            plane[:] = 0
        assert np.array_equal(backend.decode([session], [3]), backend.decode([twin], [3]))
        stage = backend.open(THIRDS[1])
        rows = backend.forward_range(backend.open(THIRDS[0]), PROMPT[:9])
        backend.forward_range(stage, rows)
        middle = backend.import_cache(backend.export_cache(stage), THIRDS[1])
        assert np.array_equal(backend.forward_range(stage, rows[:1]), backend.forward_range(middle, rows[:1]))

    @pytest.mark.requirement("D2")
    def test_an_empty_session_exports_no_rows_and_imports_as_empty(self, engine: Any):
        """Zero positions are a cache too: shapes [0, kv_head, head_dim]."""
        cache = engine.export_cache(engine.open())
        assert {plane.shape for plane in planes(cache)} == {(0, 2, 32)}
        again = engine.import_cache(cache)
        assert np.array_equal(engine.prefill(again, PROMPT[:5]), engine.prefill(engine.open(), PROMPT[:5]))

    @pytest.mark.requirement("I3")
    def test_a_cancelled_prefill_leaves_the_session_as_it_was(self, engine: Any):
        """Cancelled before the third chunk of 8: asked three times, and the next logits are as if nothing had come."""
        session, witness = engine.open(), engine.open()
        for each in (session, witness):
            engine.prefill(each, PROMPT[:10])
        asked = iter([False, False, True])
        with pytest.raises(ZeitgeistError, match="zg/backend/cancelled"):
            engine.prefill(session, PROMPT[10:60], chunk=8, cancelled=lambda: next(asked))
        assert next(asked, None) is None and session.position_count == 10
        assert np.array_equal(engine.decode([session], [4]), engine.decode([witness], [4]))

    @pytest.mark.requirement("I3")
    def test_the_last_row_alone_is_the_last_of_all_rows(self, engine: Any):
        """rows="last" over chunks of 16 returns one row, equal to the last row of rows="all"."""
        every = engine.prefill(engine.open(), PROMPT[:60], chunk=16)
        last = engine.prefill(engine.open(), PROMPT[:60], chunk=16, rows="last")
        assert every.shape == (60, 512) and last.shape == (1, 512)
        assert distance(last[0], every[-1]) <= tolerance(every)

    @pytest.mark.requirement("I3")
    @pytest.mark.parametrize("text", ["", "def f(x):\n    return x", "<|eos|> é 😀 \t\r\n  end", "naïve  ​ 漢字"])
    def test_text_goes_to_ids_and_back_as_exact_bytes(self, engine: Any, text: str):
        """Ids as our own tokenizer has them; special strings are plain text; a cut character keeps its bytes."""
        ids = engine.tokenize(text)
        assert ids == models.model("llama").bundle.tokenizer.encode(text)
        assert engine.detokenize(ids) == text.encode()
        assert b"".join(engine.detokenize([token]) for token in ids) == text.encode()
        assert engine.detokenize([1]) == b"<|eos|>"

    @pytest.mark.requirement("I3")
    def test_a_wrong_call_is_refused_by_name(self, engine: Any):
        """Each with its id and field, and without touching the session."""
        session, stage = engine.open(), engine.open(THIRDS[1])
        closed = engine.open()
        engine.close(closed)
        calls = {
            "zg/backend/no-such-session": lambda: engine.prefill(closed, [1]),
            "ids.*zg/backend/bad-request": lambda: engine.prefill(session, [512]),
            "session.*zg/backend/bad-request": lambda: engine.prefill(stage, [1]),
            "sessions.*zg/backend/bad-request": lambda: engine.decode([session, session], [1, 1]),
            "zg/backend/context-full": lambda: engine.prefill(session, PROMPT * 7),
            "position_count.*zg/backend/bad-request": lambda: engine.truncate(session, 1),
            "layers.*zg/backend/bad-request": lambda: engine.open(LayerRange(3, 7)),
            "x.*zg/backend/bad-request": lambda: engine.forward_range(stage, np.zeros((2, 127), np.float32)),
            "zg/backend/bad-argument": lambda: self.module.create({"dtype": "f64"}),
            "text.*zg/backend/bad-request": lambda: engine.tokenize("a\ud800"),
            "id 512.*zg/backend/bad-request": lambda: engine.detokenize([512]),
            "speed.*zg/backend/bad-argument": lambda: self.module.create({"speed": "high"}),
            "zg/backend/no-model": lambda: self.module.create({}).open(),
        }
        for pattern, call in calls.items():
            with pytest.raises(ZeitgeistError, match=pattern):
                call()
        assert session.position_count == 0

    @pytest.mark.requirement("I3")
    def test_counters_and_errors_are_told(self):
        """Every counter moves with its call; a foreign exception is mapped to one line."""
        backend = self.loaded()
        session = backend.open()
        backend.prefill(session, PROMPT[:9])
        backend.decode([session, backend.fork(session)], [1, 2])
        backend.import_cache(backend.export_cache(session))
        told = backend.metrics()
        assert (told["tokens_prefilled"], told["tokens_decoded"], told["batches"]) == (9, 2, 1)
        assert (told["forks"], told["cache_exports"], told["cache_imports"], told["sessions_open"]) == (1, 1, 1, 3)
        assert backend.map_error(ValueError("a\nb")) == ("zg/backend/failed", "ValueError: a")
        backend.shutdown()
        backend.shutdown()

    @pytest.mark.requirement("A2")
    def test_the_descriptor_names_the_library_that_is_loaded(self, engine: Any):
        """The digest is that of the mapped file itself; the version is the engine's."""
        found = importlib.util.find_spec(self.library_file.partition("/")[0])
        assert found and found.submodule_search_locations
        path = Path(next(iter(found.submodule_search_locations))).parent / self.library_file
        digest = "blake3:" + blake3.blake3(path.read_bytes()).hexdigest()
        assert digest in {library.digest for library in engine.describe().libraries}

    @pytest.mark.requirement("I3")
    def test_a_repeated_run_gives_the_same_bits(self, engine: Any):
        """The claim run_to_run, prompt and decode, three times."""
        runs = []
        for _ in range(3):
            session = engine.open()
            runs.append(np.concatenate([engine.prefill(session, PROMPT[:100]), engine.decode([session], [8])]))
        assert engine.describe().run_to_run and np.array_equal(runs[0], runs[1]) and np.array_equal(runs[0], runs[2])


def planes(cache: CacheArrays) -> list[np.ndarray]:
    return [*cache.k, *cache.v]
