"""The oracle is judged here: by transformers in float64, by its own golden logits, by what it must refuse."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from certify.geometry import GEOMETRIES, write_geometry
from certify.golden import GOLDEN, ZG_TINY, golden_ids, read_golden
from certify.oracle import Oracle, OracleCache, OracleOptions
from certify.oracle_rounding import hadamard, rounding
from certify.oracle_weights import read_safetensors
from zeitgeist.core.errors import ZeitgeistError

pytestmark = pytest.mark.requirement("I2")

NAMES = ["zg-tiny", *(geometry.name for geometry in GEOMETRIES)]
RELATIVE = 1e-9
"""The issue's bound for oracle against transformers in float64; 5e-13 was measured."""
IDS = golden_ids(512).tolist()


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Name → directory of zg-tiny or of a geometry of seed 0."""
    scratch, made = tmp_path_factory.mktemp("geometry"), {"zg-tiny": ZG_TINY}

    def directory(name):
        if name not in made:
            geometry = next(g for g in GEOMETRIES if g.name == name)
            made[name] = write_geometry(geometry, 0, scratch / name)
        return made[name]

    return directory


@pytest.fixture(scope="module")
def tiny():
    """The oracle of zg-tiny."""
    return Oracle.open(ZG_TINY)


def transformers_float64(model, ids, monkeypatch):
    """Logits of transformers' own eager code with every float32 inside it made float64, rotary tables included."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    with monkeypatch.context() as patch, torch.no_grad():
        for name in ("float32", "float"):
            patch.setattr(torch, name, torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        rotary = network.model.rotary_emb
        network.model.rotary_emb = type(rotary)(network.config)
        assert network.model.rotary_emb.inv_freq.dtype == torch.float64
        logits = network.eval()(torch.tensor([ids])).logits
    assert logits.dtype == torch.float64
    return logits[0].numpy()


@pytest.mark.engine("torch")
@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_agrees_with_transformers_in_float64(name, model_of, monkeypatch):
    """Every row of 768 positions on every geometry, of 1,152 on zg-tiny, relative to the largest logit."""
    ids = IDS + IDS[:384] if name == "zg-tiny" else IDS
    expected = transformers_float64(model_of(name), ids, monkeypatch)
    assert np.abs(Oracle.open(model_of(name)).logits(ids) - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_still_says_what_it_said(name, model_of):
    """Golden logits, within 1e-11 relative: another BLAS sums float64 in another order; a change of meaning is more."""
    ids, rows, expected = read_golden(GOLDEN / f"{name}.npz")
    assert ids == IDS
    assert np.abs(Oracle.open(model_of(name)).logits(ids)[rows] - expected).max() <= 1e-11 * np.abs(expected).max()


def test_every_golden_file_belongs_to_a_model():
    """No stale file."""
    assert sorted(file.stem for file in GOLDEN.glob("*.npz")) == sorted(NAMES)


def test_stages_and_continuations_equal_the_whole(tiny):
    """Layers in two stages, and tokens after a cache, give the logits of one run; the given cache is left as it is."""
    whole = tiny.logits(IDS[:200])
    first, second = OracleCache(), OracleCache()
    hidden = tiny.run(IDS[:150], first, 0, 2)
    assert np.abs(tiny.run(None, second, 2, 6, hidden) - whole[:150]).max() < 1e-11
    hidden = tiny.run(IDS[150:200], first, 0, 2)
    assert np.abs(tiny.run(None, second, 2, 6, hidden) - whole[150:]).max() < 1e-11
    _, cache = tiny.prefill(IDS[:200])
    assert np.abs(tiny.continue_from(cache.truncated(90), IDS[90:200]) - whole[90:]).max() < 1e-11
    assert cache.position_count == 200


@pytest.mark.parametrize("name", ["zg-tiny", "llama-d64-kv1-gqa7-llama3"])
def test_theta_can_be_replaced_for_diagnosis(name, model_of, tmp_path):
    """`with_theta` equals a model whose config states that base (zg-tiny, without scaling), and moves the logits."""
    oracle = Oracle.open(model_of(name))
    assert np.abs(oracle.with_theta(oracle.config.rope_theta).logits(IDS[:50]) - oracle.logits(IDS[:50])).max() < 1e-9
    changed = oracle.with_theta(123456.0)
    assert np.abs(changed.logits(IDS[:50]) - oracle.logits(IDS[:50])).max() > 0.05
    if name == "zg-tiny":
        model = edited(model_of(name), tmp_path, rope_parameters={"rope_theta": 123456.0, "rope_type": "default"})
        assert np.abs(changed.logits(IDS[:50]) - Oracle.open(model).logits(IDS[:50])).max() < 1e-9


@pytest.mark.parametrize(
    ("form", "bound"), [("f32", 1e-7), ("f16", 5e-2), ("q8_0", 1.0), ("mlx-32", 1e-12), ("mlx-8", 1.0)]
)
def test_other_forms_of_a_model_are_read_as_the_same_model(form, bound, tiny, tmp_path):
    """GGUF holds eps as float32 (1e-7); F16 and 8-bit weights cost what was measured, 9e-3 and 0.28, with head room."""
    models, gguf, mlx = (importlib.import_module(f"zeitgeist.models.{m}") for m in ("bundle", "to_gguf", "to_mlx"))
    bundle = models.open_bundle(ZG_TINY)
    path = (
        mlx.write_mlx(bundle, tmp_path / form, int(form[4:]))
        if form.startswith("mlx")
        else gguf.write_gguf(bundle, tmp_path / f"{form}.gguf", form)
    )
    assert np.abs(Oracle.open(path).logits(IDS[:60]) - tiny.logits(IDS[:60])).max() < bound


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("f16", 1e-4, 5e-2), ("bf16", 1e-3, 0.5), ("ggml_q8_0", 1e-3, 1.0), ("ggml_q4_0", 1e-2, 20.0)],
)
def test_a_rounded_cache_costs_its_band(kind, low, high, tiny):
    """The rounding happens (low) and is not a defect (high): 1e-3, 2e-2, 2e-1 in DESIGN §4, on its model."""
    rounded = tiny.with_options(OracleOptions(kv_round=kind))
    logits, cache = rounded.prefill(IDS[:80])
    assert low < np.abs(logits - tiny.logits(IDS[:80])).max() < high
    assert all(np.array_equal(rounding(kind, "")(part), part) for part in (*cache.k, *cache.v))


def test_rounding_is_that_of_ggml():
    """Against the gguf package's quantisers on random blocks; q8_0 may differ by one step where x / d is a tie."""
    gguf = importlib.import_module("gguf")
    rows = np.random.default_rng(1).standard_normal((50, 128)).astype(np.float32)
    for kind, name in (("ggml_q8_0", "Q8_0"), ("ggml_q4_0", "Q4_0")):
        type_ = gguf.GGMLQuantizationType[name]
        expected = gguf.quants.dequantize(gguf.quants.quantize(rows, type_), type_)
        assert np.abs(rounding(kind, "")(rows.astype(np.float64)) - expected).max() < 1e-6
    assert not rounding("ggml_q8_0", "")(np.zeros((1, 32))).any()
    rows = np.append(rows.ravel(), np.float32([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0])).reshape(1, -1)
    ml_dtypes = importlib.import_module("ml_dtypes")
    expected = rows.astype(ml_dtypes.bfloat16).astype(np.float64)
    assert np.array_equal(rounding("bf16", "")(rows.astype(np.float64)), expected)


def test_hadamard_is_its_own_inverse_and_keeps_length():
    """Orthonormal, in blocks; a block that does not divide the row is refused."""
    rows = np.random.default_rng(2).standard_normal((3, 128))
    turned = hadamard(rows, 64)
    assert np.abs(hadamard(turned, 64) - rows).max() < 1e-12
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(rows))
    with pytest.raises(ZeitgeistError, match="kv_hadamard"):
        hadamard(rows, 48)


def edited(model, tmp_path, **fields):
    """A copy of a model whose config.json has other fields; None removes one."""
    copy = Path(shutil.copytree(model, tmp_path / "edited"))
    config = {**json.loads((copy / "config.json").read_text()), **fields}
    (copy / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return copy


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model_type": "mamba"}, "model_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"new_scale": 2.0}, "new_scale"),
        ({"sliding_window": 64}, "sliding_window"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_theta"),
        ({"rope_theta": 5e5}, "rope_theta"),
        ({"num_key_value_heads": "absent"}, "num_key_value_heads"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mscale": 2}}, "rope_parameters.mscale"),
        ({"num_hidden_layers": 5}, "model.layers.5.input_layernorm.weight"),
        ({"num_hidden_layers": 7}, "model.layers.6.input_layernorm.weight"),
        ({"tie_word_embeddings": True}, "head"),
        ({"hidden_size": 64}, "model.embed_tokens.weight"),
    ],
)
def test_what_the_oracle_does_not_know_is_refused_by_name(fields, name, tmp_path):
    """Unknown keys, values and scalings, missing and surplus tensors, contradictions: never a guess."""
    with pytest.raises(ZeitgeistError) as refusal:
        Oracle.open(edited(ZG_TINY, tmp_path, **fields))
    assert refusal.value.id in ("zg/oracle/unknown", "zg/oracle/bad-file")
    assert refusal.value.field == name


@pytest.mark.parametrize("length", [0, 7, 100, 5_000, -1])
def test_damaged_weights_are_refused(length, tmp_path):
    """SafeTensors cut at several places."""
    file = tmp_path / "cut.safetensors"
    file.write_bytes((ZG_TINY / "model.safetensors").read_bytes()[:length])
    with pytest.raises(ZeitgeistError, match="zg/oracle/bad-file"):
        read_safetensors(file)


def test_a_request_that_makes_no_sense_is_refused(tiny):
    """Layers, ids, hidden rows, caches and option names."""
    _, cache = tiny.prefill(IDS[:4])
    for call in (
        lambda: tiny.run(IDS, None, 3, 2),
        lambda: tiny.run(IDS, None, 2),
        lambda: tiny.logits([512]),
        lambda: tiny.logits([]),
        lambda: tiny.run(None, None, 1, 2, np.zeros((1, 5))),
        lambda: tiny.run(IDS, cache, 0, 2),
        lambda: tiny.with_options(OracleOptions(kv_round="f8")),
    ):
        with pytest.raises(ZeitgeistError, match="zg/oracle/bad-request"):
            call()
    with pytest.raises(ZeitgeistError, match="zg/oracle/bad-file"):
        Oracle.open("nowhere")
