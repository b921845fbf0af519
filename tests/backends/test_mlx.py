"""The MLX adapter on the real engine, and beside torch: pipelines and cache exchange (I5, D2, F8)."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_contract import THIRDS, EngineContract
from engine_models import PROMPT, distance, model, tolerance

from zeitgeist.backends import mlx as module
from zeitgeist.backends import torch as torch_module
from zeitgeist.models.bundle import open_bundle

pytestmark = pytest.mark.engine("mlx")


class TestMlx(EngineContract):
    """The contract, on MLX with mlx-lm."""

    module = module
    library_file = "mlx/lib/libmlx" + (".dylib" if sys.platform == "darwin" else ".so")

    @pytest.mark.requirement("I5")
    @pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
    def test_chunks_never_change_a_bit(self, dtype: str):
        """The claim chunk_invariant: token by token, odd and even chunks, across the 256-row growth of the cache."""
        backend = self.loaded(dtype=dtype)
        ids = PROMPT + PROMPT[::-1]
        whole = backend.prefill(backend.open(), ids)
        assert backend.describe().chunk_invariant
        for chunk in (1, 3, 7, 16, 64, 257):
            assert np.array_equal(whole, backend.prefill(backend.open(), ids, chunk=chunk)), chunk

    @pytest.mark.requirement("I5")
    @pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
    def test_a_batch_never_changes_a_bit(self, dtype: str):
        """The claim batch_invariant: 2 to 13 of equal lengths, and ragged, at lengths around SIMD and growth steps."""
        backend = self.loaded("qwen3", dtype=dtype)
        ids = PROMPT + PROMPT[::-1]
        lengths = [*[1] * 2, *[33] * 13, *[64] * 5, *[255] * 3, 2, 5, 256]
        sessions = [backend.open() for _ in lengths]
        for row, (session, length) in enumerate(zip(sessions, lengths, strict=True)):
            backend.prefill(session, ids[row:][:length] or ids[:length], rows="last")
        alone = [backend.fork(session) for session in sessions]
        assert backend.describe().batch_invariant
        for step in range(3):
            given = [(37 * step + 11 * row) % 512 for row in range(len(sessions))]
            together = backend.decode(sessions, given)
            apart = [backend.decode([session], [token])[0] for session, token in zip(alone, given, strict=True)]
            assert np.array_equal(together, apart)

    @pytest.mark.requirement("I5")
    @pytest.mark.parametrize(
        ("name", "is_right"),
        [
            ("llama", True),
            ("llama-theta", False),
            ("llama-llama3", False),
            ("llama-linear", False),
            ("qwen2", False),
            ("qwen3", True),
        ],
    )
    def test_mlx_lm_as_published_misreads_rope_parameters(self, name: str, is_right: bool):
        """mlx-lm 0.32.2: llama and qwen2 ignore what transformers 5 writes; a release that reads it fails this test.

        Wrong means hundreds of times the f32 band; `handled` is what the corrected adapter says of it.
        """
        truth = model(name).logits
        raw = self.loaded(name, config="published")
        off = distance(raw.prefill(raw.open(), PROMPT), truth)
        assert off <= tolerance(truth) if is_right else off > 1000 * tolerance(truth)
        assert raw.describe().handled == () and raw.describe().variant == "raw"
        assert "rope-theta-ignored" in self.loaded(name).describe().handled

    @pytest.mark.requirement("I5")
    def test_mlx_lm_as_published_drops_the_head_of_a_silent_configuration(self, tmp_path: Path):
        """Without `tie_word_embeddings` mlx-lm's llama takes the embedding as head; transformers the stored head."""
        folder = shutil.copytree(model("llama").path, tmp_path / "silent")
        config = json.loads((folder / "config.json").read_text())
        del config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
        truth, off = model("llama").logits, {}
        for reading in ("corrected", "published"):
            backend: Any = module.create({"config": reading})
            backend.load(open_bundle(folder))
            off[reading] = distance(backend.prefill(backend.open(), PROMPT), truth)
        assert off["corrected"] <= tolerance(truth) and off["published"] > 1000 * tolerance(truth)

    @pytest.mark.requirement("R3")
    @pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64)])
    def test_an_affine_quantised_directory_runs_packed(self, bits: int, group: int, tmp_path: Path):
        """Written by mlx-lm; against torch on the dequantised values, in the f32 band; chunks still keep every bit."""
        from mlx_lm import utils

        source = model("llama-llama3").path
        made, config = utils.quantize_model(*utils.load_model(source), group, bits)
        utils.save_model(tmp_path, made)
        utils.save_config(config, tmp_path / "config.json")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, tmp_path)
        packed, unpacked = module.create({}), torch_module.create({})
        for backend in (packed, unpacked):
            backend.load(open_bundle(tmp_path))
        ours = packed.prefill(packed.open(), PROMPT)
        assert hasattr(packed.model.layers[0].self_attn.q_proj, "scales")
        assert distance(ours, unpacked.prefill(unpacked.open(), PROMPT)) <= tolerance(ours)
        assert np.array_equal(ours, packed.prefill(packed.open(), PROMPT, chunk=7))

    @pytest.mark.requirement("F8")
    def test_torch_and_mlx_share_one_pipeline(self, engine: Any, record_property: Any):
        """torch [0,2) → MLX [2,4) → torch [4,6), prompt and eight steps, within the f32 band of float64."""
        torch = torch_loaded()
        truth = model("llama").logits
        stages = [(torch, torch.open(THIRDS[0])), (engine, engine.open(THIRDS[1])), (torch, torch.open(THIRDS[2]))]
        rows = []
        for part in (PROMPT[:60], *([token] for token in PROMPT[60:68])):
            x: Any = part
            for backend, session in stages:
                x = backend.forward_range(session, x)
            rows.append(x)
        off = distance(np.concatenate(rows), truth[:68])
        record_property("distance", off)
        assert off <= tolerance(truth)

    @pytest.mark.requirement("D2")
    @pytest.mark.parametrize("way", ["torch to mlx", "mlx to torch"])
    def test_a_cache_of_one_engine_continues_on_the_other(self, engine: Any, way: str, record_property: Any):
        """96 tokens there, 54 here, within the f32 band; a poisoned twin shows that the cache was really used."""
        pair = (torch_loaded(), engine) if way == "torch to mlx" else (engine, torch_loaded())
        source, target = pair
        session = source.open()
        source.prefill(session, PROMPT[:96])
        cache = source.export_cache(session)
        truth = model("llama").logits
        off = distance(target.prefill(target.import_cache(cache), PROMPT[96:]), truth[96:])
        record_property("distance", off)
        assert off <= tolerance(truth)
        cache.k[2][40, 1] = 0
        assert distance(target.prefill(target.import_cache(cache), PROMPT[96:]), truth[96:]) > 10 * tolerance(truth)


def torch_loaded() -> Any:
    backend: Any = torch_module.create({})
    backend.load(model("llama").bundle)
    return backend
