"""The llama.cpp adapter on the real engine. Needs `make setup`: without our build these tests fail, none skips."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from llama_geometry import TOKENS, Geometry, forward

from zeitgeist.backends.base import LayerRange
from zeitgeist.backends.llama_blob import build
from zeitgeist.backends.llama_cpp import VARIANTS, LlamaBackend, create
from zeitgeist.backends.llama_library import check_abi
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle
from zeitgeist.models.to_gguf import write_gguf

pytestmark = [pytest.mark.engine("llama_cpp"), pytest.mark.requirement("I4")]

ROOT = Path(__file__).parents[2]
IDS = [int(i) for i in np.random.default_rng(3).integers(0, len(TOKENS), 330)]
OPTIONS = {"default": {}, **{v.name: dict(v.options) for v in VARIANTS if v.name != "stock"}}
GEOMETRIES = {
    "llama": Geometry(),
    "llama-f16": Geometry(encoding="F16"),
    "llama-q8_0": Geometry(encoding="Q8_0"),
    "llama-q4_0": Geometry(encoding="Q4_0"),
    "mqa-80": Geometry(kv_heads=1, heads=7, head_dim=80),
    "128": Geometry(heads=2, kv_heads=2, head_dim=128, theta=5e5),
    "64": Geometry(head_dim=64),
    "tied": Geometry(tied=True, kv_heads=4),
    "linear": Geometry(linear=4.0),
    "llama3": Geometry(divisors=np.array([*[1.0] * 5, 2.1, 3.7, 5.9, *[8.0] * 8])),
    "qwen2": Geometry(family="qwen2", heads=2, kv_heads=1),
    "qwen3": Geometry(family="qwen3", head_dim=64, tied=True, theta=1e6),
}
EXACT = ["llama", "mqa-80", "128", "64", "tied", "linear", "llama3", "qwen2", "qwen3"]


class Made:
    """Backends by (geometry, variant), made when first asked for and shared by the tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backends: dict[tuple[str, str], LlamaBackend] = {}

    def __call__(self, geometry: str, variant: str = "default") -> LlamaBackend:
        key = (geometry, variant)
        if key not in self.backends:
            backend = create({"n_ctx": "512", "n_seq_max": "5", **OPTIONS[variant]})
            backend.load(GEOMETRIES[geometry].bundle(self.folder / f"{geometry}-{variant}.gguf"))
            self.backends[key] = backend
        return self.backends[key]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(tmp_path_factory.mktemp("models"))
    yield made
    for backend in made.backends.values():
        backend.shutdown()


@pytest.fixture(autouse=True)
def all_sessions_are_closed(made: Made) -> Iterator[None]:
    """A test closes what it opens; the backends are shared and hold five sessions."""
    yield
    for backend in made.backends.values():
        for stage in backend.stages.values():
            for sequence in set(range(5)) - set(stage.free_sequences):
                stage.give_sequence(sequence)
        backend.sessions_open = 0


def half_split(rows: np.ndarray, pairing: str) -> np.ndarray:
    return np.concatenate((rows[..., 0::2], rows[..., 1::2]), -1) if pairing == "interleaved" else rows


def within_rounding(got: np.ndarray, wanted: np.ndarray, single: np.ndarray) -> bool:
    """DESIGN §4: max(4 × what float32 NumPy is off by, 64 u max|x|)."""
    floor = np.abs(single - wanted).max()
    return bool(np.abs(got - wanted).max() <= max(4 * floor, 64 * 2**-24 * np.abs(wanted).max()))


@pytest.mark.parametrize("name", EXACT)
def test_logits_and_cache_are_those_of_the_float64_model(made: Made, name: str) -> None:
    """Our float64 forward pass says what logits, K and V must be: q/k permutation, GQA, biases, norms, scaling."""
    backend, ids = made(name), IDS[:90]
    session = backend.open()
    logits = backend.prefill(session, ids)
    cache = backend.export_cache(session)
    wanted, wanted_k, wanted_v = forward(GEOMETRIES[name], ids)
    single, single_k, single_v = forward(GEOMETRIES[name], ids, np.float32)
    assert within_rounding(logits, wanted, single)
    assert cache.form.pairing == ("interleaved" if GEOMETRIES[name].family == "llama" else "half")
    for layer in range(3):
        assert within_rounding(half_split(cache.k[layer], cache.form.pairing), wanted_k[layer], single_k[layer])
        assert within_rounding(cache.v[layer], wanted_v[layer], single_v[layer])


@pytest.mark.requirement("F8")
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *((name, "default") for name in ("llama", "llama-f16", "llama-q8_0", "llama-q4_0", "mqa-80", "qwen3")),
        *(("64", variant) for variant in OPTIONS),
        ("llama", "fa"),
    ],
)
def test_claims_of_invariance_hold_bitwise(made: Made, name: str, variant: str) -> None:
    """Claimed batch_invariant: a ragged batch equals each alone, across llama.cpp's 256-cell steps. Claimed
    chunk_invariant: any chunking, and token by token, equals the whole prefill. Not claimed: seen to differ."""
    backend = made(name, variant)
    claims = backend.describe()
    whole_session = backend.open()
    whole = backend.prefill(whole_session, IDS)
    stepped = backend.open()
    steps = np.concatenate([backend.decode([stepped], [i]) for i in IDS])
    backend.close(stepped)
    chunked = backend.open()
    chunks = backend.prefill(chunked, IDS, chunk=7)
    backend.close(chunked)
    assert np.array_equal(steps, chunks)
    assert np.array_equal(steps, whole) == claims.chunk_invariant
    lengths = (300, 4, 77)
    sessions = [backend.open() for _ in lengths]
    for session, length in zip(sessions, lengths, strict=True):
        backend.prefill(session, IDS[:length], rows="last")
    alone = []
    for session, length in zip(sessions, lengths, strict=True):
        alone.append(backend.decode([session], [IDS[length]])[0])
        backend.truncate(session, length)
    batch = backend.decode([*sessions, whole_session], [*(IDS[length] for length in lengths), 5])
    assert claims.batch_invariant
    assert np.array_equal(batch[:3], np.array(alone))


@pytest.mark.requirement("D2")
@pytest.mark.parametrize("variant", OPTIONS)
def test_the_blob_is_rebuilt_byte_for_byte_and_the_imported_cache_continues(made: Made, variant: str) -> None:
    """export → build gives llama.cpp's own bytes; an import continues bitwise; a poisoned one does not."""
    backend = made("64", variant)
    filler, session = backend.open(), backend.open()
    backend.prefill(session, IDS[:60])
    stage, slot = backend.whole(), backend.live(session).cache
    cache = backend.export_cache(session)
    assert slot.sequence == 1, "a sequence that is not 0, so that the stream index is seen"
    assert build(cache.k, cache.v, stage.layout(2, 64), 60, slot.sequence) == stage.read_state(slot.sequence)
    backend.close(filler)
    imported = backend.import_cache(cache)
    copied = backend.export_cache(imported)
    assert [a.tobytes() for a in (*cache.k, *cache.v)] == [a.tobytes() for a in (*copied.k, *copied.v)]
    cache.k[1][3] = 0
    poisoned = backend.import_cache(cache)
    a, b, c = (backend.decode([s], [9]) for s in (session, imported, poisoned))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def hadamard(rows: np.ndarray, size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (rows.reshape(*rows.shape[:-1], -1, size) @ matrix / size**0.5).reshape(rows.shape)


@pytest.mark.requirement("D2")
@pytest.mark.parametrize(
    ("name", "variant", "sizes"),
    [
        ("64", "kv-q8_0", (64, 64)),
        ("64", "kv-q4_0", (64, 64)),
        ("128", "kv-q8_0", (128, 64)),
        ("llama", "kv-q8_0", (0, 0)),
        ("qwen3", "kv-q8_0", (64, 64)),
    ],
)
def test_a_quantised_cache_says_how_it_is_rotated(made: Made, name: str, variant: str, sizes: tuple[int, int]) -> None:
    """Layer 0 depends on no cache: its blocks must hold the float64 K and V, rotated as the form says, within a block's
    own step (Q8_0 amax/254, Q4_0 amax/8, and the F16 scale's 2^-11); without the rotation they are far off."""
    backend, g = made(name, variant), GEOMETRIES[name]
    session = backend.open()
    backend.prefill(session, IDS[:40])
    cache = backend.export_cache(session)
    assert (cache.form.k.hadamard, cache.form.v.hadamard) == sizes
    _, k, v = forward(g, IDS[:40])
    if cache.form.pairing == "interleaved":
        k[0] = np.stack(np.split(k[0], 2, -1), -1).reshape(k[0].shape)
    kind = gguf.GGMLQuantizationType.Q8_0 if variant == "kv-q8_0" else gguf.GGMLQuantizationType.Q4_0
    step = 1 / 254 + 2**-11 if variant == "kv-q8_0" else 1 / 8 + 2**-11
    for stored, plain, size in ((cache.k[0], k[0], sizes[0]), (cache.v[0], v[0], sizes[1])):
        got = dequantize(stored, kind).reshape(plain.shape)
        wanted = hadamard(plain, size) if size else plain
        amax = np.abs(wanted).reshape(*wanted.shape[:-1], -1, 32).max(-1).repeat(32, -1)
        assert (np.abs(got - wanted) <= amax * step + 1e-4).all()
        if size:
            assert np.abs(got - plain).max() > np.abs(plain).max() / 2


@pytest.mark.requirement("D2")
@pytest.mark.parametrize(("switch", "rotation"), [("1", 0), ("no", 64)])
def test_the_rotation_switch_of_llama_cpp_is_read_as_it_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, rotation: int
) -> None:
    """LLAMA_ATTN_ROT_DISABLE by C's atoi, at load: the form says what the blocks of layer 0 hold."""
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", switch)
    g = Geometry(head_dim=64, layers=1)
    backend = create({"kv": "q8_0", "flash_attention": "on", "n_ctx": "256", "n_seq_max": "1"})
    backend.load(g.bundle(tmp_path / "m.gguf"))
    monkeypatch.delenv("LLAMA_ATTN_ROT_DISABLE")
    session = backend.open()
    backend.prefill(session, IDS[:10])
    cache = backend.export_cache(session)
    assert cache.form.v.hadamard == rotation
    plain = forward(g, IDS[:10])[2][0]
    got = dequantize(cache.v[0], gguf.GGMLQuantizationType.Q8_0).reshape(plain.shape)
    wanted = hadamard(plain, 64) if rotation else plain
    assert np.abs(got - wanted).max() <= np.abs(wanted).max() * (1 / 254 + 2**-11) + 1e-4
    backend.shutdown()


@pytest.mark.parametrize("variant", ["default", "kv-q8_0"])
def test_a_fork_never_changes_its_origin_nor_its_origin_it(made: Made, variant: str) -> None:
    """Forked, then decoded apart, truncated, closed and reused: both go on as a session that nobody forked."""
    backend = made("64", variant)
    plain, origin = backend.open(), backend.open()
    backend.prefill(plain, IDS[:50])
    backend.prefill(origin, IDS[:50])
    child = backend.fork(origin)
    backend.decode([origin], [1])
    backend.close(origin)
    other = backend.open()
    backend.prefill(other, IDS[100:180])
    assert np.array_equal(backend.decode([child], [2]), backend.decode([plain], [2]))
    empty = backend.fork(backend.open())
    backend.close(plain)
    assert empty.position_count == 0
    last = backend.prefill(empty, IDS[100:180])[-1]
    assert np.array_equal(last, backend.decode([cut(backend, other)], [IDS[179]])[0])


def cut(backend: LlamaBackend, session: Any) -> Any:
    backend.truncate(session, session.position_count - 1)
    return session


@pytest.mark.parametrize("name", ["llama", "llama-q4_0", "llama3", "qwen2", "qwen3"])
def test_stages_in_a_row_equal_the_whole_model_bitwise(made: Made, name: str) -> None:
    """Front, middle and back, prefill and step; each stage's cache is its part of the whole one, and may move."""
    backend, ids = made(name), IDS[:70]
    whole = backend.open()
    wanted = np.concatenate((backend.prefill(whole, ids), backend.decode([whole], [7])))
    stages = [backend.open(LayerRange(i, i + 1)) for i in range(3)]
    first = run(backend, stages, ids)
    caches = [backend.export_cache(stage) for stage in stages]
    moved = [backend.import_cache(cache, LayerRange(i, i + 1)) for i, cache in enumerate(caches)]
    assert np.array_equal(np.concatenate((first, run(backend, moved, [7]))), wanted)
    backend.truncate(whole, 70)
    full = backend.export_cache(whole)
    assert [c.k[0].tobytes() for c in caches] == [k.tobytes() for k in full.k]
    assert [c.v[0].tobytes() for c in caches] == [v.tobytes() for v in full.v]


def run(backend: LlamaBackend, stages: list[Any], x: Any) -> Any:
    for stage in stages:
        x = backend.forward_range(stage, x)
    return x


def test_a_long_stage_call_is_cut_into_batches_without_a_trace(made: Made) -> None:
    """600 hidden rows do not fit: refused before the engine; 500 in one call equal 250 + 250."""
    backend = made("llama")
    one, two = backend.open(LayerRange(0, 2)), backend.open(LayerRange(0, 2))
    ids = (IDS * 2)[:500]
    halves = [backend.forward_range(two, ids[:250]), backend.forward_range(two, ids[250:])]
    assert np.array_equal(backend.forward_range(one, ids), np.concatenate(halves))
    with pytest.raises(ZeitgeistError, match="context-full"):
        backend.forward_range(backend.open(LayerRange(1, 2)), np.zeros((600, 64), np.float32))


def test_a_prefill_longer_than_a_batch_equals_its_parts(tmp_path: Path) -> None:
    """More rows than one llama_decode takes: the same logits and cache as in small chunks, `last` is the last row."""
    backend = create({"n_ctx": "1024", "n_seq_max": "2"})
    bundle = Geometry(layers=1).bundle(tmp_path / "m.gguf")
    bundle.config = type(bundle.config)(
        **{f: getattr(bundle.config, f) for f in bundle.config.__struct_fields__} | {"context_length": 1024}
    )
    backend.load(bundle)
    ids = (IDS * 3)[:700]
    one, two = backend.open(), backend.open()
    whole = backend.prefill(one, ids, chunk=700)
    assert np.array_equal(whole[-1:], backend.prefill(two, ids, rows="last", chunk=600))
    backend.shutdown()


def test_cancelled_prefill_leaves_the_session_as_it_was(made: Made) -> None:
    """Cancelled before the third chunk: held tokens and the next logits are as if nothing had been asked."""
    backend = made("llama")
    session, plain = backend.open(), backend.open()
    for s in (session, plain):
        backend.prefill(s, IDS[:20])
    asked = iter([False, False, True])
    with pytest.raises(ZeitgeistError, match="cancelled"):
        backend.prefill(session, IDS[20:80], chunk=16, cancelled=lambda: next(asked))
    assert session.position_count == 20
    assert np.array_equal(backend.decode([session], [3]), backend.decode([plain], [3]))
    with pytest.raises(ZeitgeistError, match="context-full"):
        backend.prefill(session, IDS + IDS)
    assert session.position_count == 21


def test_the_tokenizer_is_byte_exact_and_takes_specials_as_text(made: Made) -> None:
    """No BOS although the file asks for one; cut UTF-8, NUL and special texts survive; a lone surrogate is refused."""
    backend = made("llama")
    for text in ("the other thing", "a\0b", "naïve 🙂\r\n\t  x", "<|bos|>the<|eos|>", ""):
        ids = backend.tokenize(text)
        assert backend.detokenize(ids) == text.encode()
        assert not {len(TOKENS) - 2, len(TOKENS) - 1} & set(ids)
    assert backend.tokenize("the") == [TOKENS.index("the")]
    assert backend.detokenize([len(TOKENS) - 2]) == b"<|bos|>"
    assert backend.detokenize(backend.tokenize("🙂")[:2]) == "🙂".encode()[:2]
    with pytest.raises(ZeitgeistError, match="bad-request"):
        backend.tokenize("\ud800")
    with pytest.raises(ZeitgeistError, match="bad-request"):
        backend.detokenize([len(TOKENS)])


@pytest.mark.parametrize("variant", ["default", "kv-f16", "fa"])
def test_a_nan_does_not_outlive_its_session_nor_its_position(made: Made, variant: str) -> None:
    """llama.cpp multiplies freed cells by a weight of 0. NaN rows, then close, then truncate: nothing is left."""
    backend = made("64", variant)
    plain = backend.open()
    wanted = backend.prefill(plain, IDS[:20])
    other, session = backend.open(), backend.open()
    backend.prefill(session, IDS[:90])
    cache = backend.export_cache(session)
    for rows in cache.v:
        rows[50:] = np.nan
    assert np.array_equal(backend.prefill(other, IDS[:20]), wanted)
    for end in (backend.close, lambda s: backend.truncate(s, 0)):
        bad = backend.import_cache(cache)
        sequence = bad.cache.sequence
        assert np.isnan(backend.decode([bad], [1])).any()
        end(bad)
        again = bad if bad.cache is not None else backend.open()
        assert again.cache.sequence == sequence
        assert np.array_equal(backend.prefill(again, IDS[:20]), wanted)
        backend.close(again)
    assert np.array_equal(backend.decode([other], [1]), backend.decode([plain], [1]))


def test_more_sessions_than_the_context_has_are_refused(made: Made) -> None:
    """The sixth session of five is refused by name, and closing one makes room."""
    backend = made("llama")
    sessions = [backend.open() for _ in range(5)]
    with pytest.raises(ZeitgeistError, match="sessions-full"):
        backend.open()
    backend.close(sessions[2])
    backend.close(backend.open())
    with pytest.raises(ZeitgeistError, match="no-such-session"):
        backend.decode([sessions[2]], [1])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kv": "q5_0"}, "kv"),
        ({"kv": "q8_0"}, "flash_attention"),
        ({"n_ctx": "-1"}, "n_ctx"),
        ({"speed": "high"}, "speed"),
        ({"n_seq_max": "65"}, "n_seq_max"),
        ({"library": "mine"}, "library"),
    ],
)
def test_options_that_do_not_exist_are_refused_by_name(options: dict[str, str], word: str) -> None:
    """Before any library is loaded."""
    with pytest.raises(ZeitgeistError, match=rf"^{word}.*bad-argument"):
        create(options)


def test_a_second_library_in_one_process_is_refused(made: Made) -> None:
    """Two llama.cpp in one process abort; the refusal comes first."""
    made("llama")
    with pytest.raises(ZeitgeistError, match="second-library"):
        create({"library": "stock"})


def test_a_file_that_llama_cpp_refuses_gives_its_message(tmp_path: Path) -> None:
    """A tensor of another shape than the metadata says: an error with llama.cpp's words, and the process lives on."""
    g = Geometry()
    bundle = g.bundle(tmp_path / "m.gguf")
    bundle.path.write_bytes(bundle.path.read_bytes().replace(b"blk.1.attn_k.weight", b"blk.1.attn_j.weight"))
    with pytest.raises(ZeitgeistError, match=r"blk\.1\.attn_k\.weight.*load-failed"):
        create({"n_ctx": "256", "n_seq_max": "1"}).load(bundle)


def test_the_describe_names_the_files_that_are_really_loaded(made: Made) -> None:
    """Digests are of the mapped files, our build's folder among them; bands follow options and weights."""
    claims = made("llama").describe()
    assert {library.name for library in claims.libraries} >= {"libllama", "libggml-base", "libggml-cpu"}
    subjects = (
        ("llama", "default"),
        ("llama-f16", "default"),
        ("llama", "fa"),
        ("llama-q4_0", "default"),
        ("64", "kv-q4_0"),
    )
    assert [made(*subject).describe().band for subject in subjects] == ["x32", "x16", "x16", "q8", "q4"]
    assert made("llama-q4_0").describe().activations == "ggml_q8_0"


def test_a_library_with_other_structs_is_refused_before_use(made: Made) -> None:
    """One default moved by a word, as a newer llama.cpp does: refused with the field's name."""
    api = made("llama").engine.api
    params = api.llama_context_default_params()
    params.type_k = 0
    moved = SimpleNamespace(api=SimpleNamespace(llama_context_default_params=lambda: params))
    with pytest.raises(ZeitgeistError, match=r"llama_context_params\.type_k.*library-unknown"):
        check_abi(moved)  # type: ignore[arg-type]


def test_a_missing_build_says_what_to_run(tmp_path: Path) -> None:
    """In a process of its own, with an empty engines folder."""
    code = "from zeitgeist.backends.llama_cpp import create; create({})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ZEITGEIST_ENGINES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "make setup" in done.stderr
    assert "zg/llama/library-missing" in done.stderr


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("encoding", ["hf", "f32", "q8_0"])
def test_the_committed_model_loads_through_our_reader_in_every_form(tmp_path: Path, encoding: str) -> None:
    """zg-tiny from its Hugging Face folder, and as GGUF made by our writer: same ids, and F32 forms the same bits."""
    source = open_bundle(ROOT / "fixtures" / "models" / "zg-tiny")
    options = {"n_ctx": "256", "n_seq_max": "2"}
    plain, backend = create(options), create(options)
    plain.load(source)
    backend.load(source if encoding == "hf" else open_bundle(write_gguf(source, tmp_path / "m.gguf", encoding)))
    text = "def f(self):\n    return None  # é <|eos|>"
    ids = backend.tokenize(text)
    assert ids == source.tokenizer.encode(text)
    logits, wanted = (b.prefill(b.open(), ids) for b in (backend, plain))
    assert np.array_equal(logits, wanted) == (encoding != "q8_0")
    assert backend.describe().activations == ("ggml_q8_0" if encoding == "q8_0" else "")
    for each in (backend, plain):
        each.shutdown()


STOCK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from llama_geometry import Geometry, forward
import numpy as np
from zeitgeist.backends.llama_cpp import create
backend = create({"library": "stock", "n_ctx": "512", "n_seq_max": "4"})
g = Geometry()
backend.load(g.bundle(Path(sys.argv[2])))
ids = [int(i) for i in np.random.default_rng(3).integers(0, 258, 90)]
a, b = backend.open(), backend.open()
whole = backend.prefill(a, ids)
steps = np.concatenate([backend.decode([b], [i]) for i in ids])
claims = backend.describe()
c = backend.import_cache(backend.export_cache(a))
print(json.dumps({
    "error": float(np.abs(whole - forward(g, ids)[0]).max()), "chunk": bool(np.array_equal(whole, steps)),
    "claims": [claims.batch_invariant, claims.chunk_invariant, claims.variant],
    "libraries": [l.name for l in claims.libraries],
    "continued": bool(np.array_equal(backend.decode([a], [1]), backend.decode([c], [1])))}))
backend.shutdown()
"""


@pytest.mark.requirement("F8")
def test_the_prebuilt_wheel_runs_and_is_not_chunk_invariant(tmp_path: Path) -> None:
    """The second specimen, in a process of its own: right numbers, no claim of invariance, and indeed none."""
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(Path(__file__).parent), str(tmp_path / "m.gguf")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["error"] < 64 * 2**-24 * 20
    assert seen["libraries"] == ["xllamacpp"]
    assert seen["claims"] == [False, False, "stock"]
    assert not seen["chunk"]
    assert seen["continued"]
