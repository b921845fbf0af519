"""Real engines behind real workers: one tokenizer in all of them, and one greedy text (I3 I4 I5, F8's precondition)."""

import random
from pathlib import Path

import pytest

from certify.oracle import Oracle
from certify.passages import PASSAGE, tokenizer_of
from fixtures.manifest import ZG_TINY
from zeitgeist.host.workers import Worker, WorkerSpec
from zeitgeist.models.bundle import open_bundle
from zeitgeist.models.to_gguf import write_gguf
from zeitgeist.models.to_mlx import write_mlx

PROMPT = "The value of some objects can"
FORMS = ["hf", "gguf", "mlx"]
PAIRS = [(engine, form) for engine in ("reference", "torch", "mlx", "llama_cpp") for form in FORMS]
PAIRS.append(("llama_cpp:stock", "gguf"))
pytestmark = [pytest.mark.engine("torch"), pytest.mark.engine("mlx"), pytest.mark.engine("llama_cpp")]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """zg-tiny as Hugging Face directory, GGUF and MLX directory."""
    folder, bundle = tmp_path_factory.mktemp("forms"), open_bundle(ZG_TINY)
    write_gguf(bundle, folder / "zg-tiny.gguf", "f32")
    write_mlx(bundle, folder / "mlx", bits=32)
    return {"hf": ZG_TINY, "gguf": folder / "zg-tiny.gguf", "mlx": folder / "mlx"}


@pytest.fixture(scope="module")
def greedy() -> list[int]:
    """32 tokens that the float64 oracle continues PROMPT with."""
    oracle, ids = Oracle.open(ZG_TINY), list(tokenizer_of(ZG_TINY).encode(PROMPT))
    count = len(ids)
    while len(ids) < count + 32:
        ids.append(int(oracle.logits(ids)[-1].argmax()))
    return ids[count:]


def texts() -> list[str]:
    """The passage, its lines, and 400 seeded strings of many scripts."""
    source = random.Random(20261121)
    alphabet = "abcXYZ019 \t\n\r'\",.!?(){}<>|éßñЖλ中かなहिعر🙂👍🏽\u0301\u200d\u00a0"
    fuzz = ["".join(source.choice(alphabet) for _ in range(source.randint(1, 80))) for _ in range(400)]
    return [PASSAGE, *PASSAGE.splitlines(), *fuzz]


@pytest.mark.requirement("A3")
@pytest.mark.requirement("I3")
@pytest.mark.requirement("I4")
@pytest.mark.requirement("I5")
@pytest.mark.requirement("R3")
@pytest.mark.parametrize(("engine", "form"), PAIRS)
def test_one_model_in_every_form_on_every_engine(
    engine: str, form: str, forms: dict[str, Path], greedy: list[int]
) -> None:
    """One model digest, one tokenizer digest, the same ids for every text, and the oracle's greedy continuation."""
    mine, wanted = tokenizer_of(ZG_TINY), open_bundle(ZG_TINY).descriptor()
    with Worker.start(WorkerSpec(backend=engine)) as worker:
        about = worker.load(forms[form])
        assert (about.model, about.tokenizer) == (wanted.model, wanted.tokenizer)
        for text in texts():
            ids = worker.tokenize(text)
            assert ids == mine.encode(text), text
            assert not ids or worker.detokenize(ids) == text.encode()
        found = worker.generate(mine.encode(PROMPT), 32).tokens
    assert [token.id for token in found] == greedy
