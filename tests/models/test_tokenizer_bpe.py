"""Our byte-level BPE against the `tokenizers` library, token for token."""

import importlib
import random
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.manifest import ZG_TINY
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import ModelBundle, open_bundle
from zeitgeist.models.identity import PROBE_TEXT
from zeitgeist.models.pretokenise import gpt2_pieces

ASSIGNED = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
"""Characters that this Python's Unicode tables know: of others two tables may differ."""

FREQUENT = [
    *"    \n\n\r\t'''abcdefstreIlLvmd0123456789.,!?-_ \u00a0\u3000\u2028é½Ⅷ²中あ한🙂\u200d\u0301",
    "\r\n",
    "   ",
    "'ll",
    "'ve",
    "’s",
    "👩‍👩‍👧",
    "<|bos|>",
    "\x1c",
    "\x85",
]

TEXTS = [
    PROBE_TEXT,
    "",
    " ",
    "\n",
    "a" * 5000,
    " " * 5000,
    "\r\n" * 300,
    "don't you'LL we've 's 't",
    "x  y   z\t\t\tq \n \n  r",
    "naïve Straße ΑΒΓ привет שלום مرحبا नमस्ते 你好 こんにちは 안녕",
    "🙂🙂🏽👨‍👩‍👧‍👦🇩🇪",
    "e\u0301\u0327 \u200b\ufeff\u00ad",
    "１２３ ½ ² Ⅷ ३",
    "a\x00b\x1cc\x7fd\x85e",
    "\U0010ffff\ue000",
]


@pytest.fixture(scope="module")
def library() -> Any:
    """The reference implementation over the same file."""
    return importlib.import_module("tokenizers").Tokenizer.from_file(str(ZG_TINY / "tokenizer.json"))


def library_ids(library: Any, text: str) -> list[int]:
    """The library always reads special texts as tokens; ours does when asked to."""
    return library.encode(text, add_special_tokens=False).ids


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_chosen_texts_get_the_ids_of_the_tokenizers_library(zg_tiny: ModelBundle, library: Any, text: str) -> None:
    """Unicode, emoji, CRLF, blank runs, control characters: equal ids, and decoding gives the text back."""
    ids = zg_tiny.tokenizer.encode(text, specials=True)
    assert ids == library_ids(library, text)
    assert zg_tiny.tokenizer.decode(ids) == text.encode()


@pytest.mark.requirement("A3")
def test_thousands_of_random_texts_get_the_ids_of_the_tokenizers_library(zg_tiny: ModelBundle, library: Any) -> None:
    """5,000 texts from a fixed seed: frequent trouble-makers mixed with any assigned character."""
    chance = random.Random(2026)
    for _ in range(5000):
        pool = FREQUENT if chance.random() < 0.7 else ASSIGNED
        text = "".join(
            chance.choice(pool if chance.random() < 0.8 else FREQUENT) for _ in range(chance.randrange(1, 40))
        )
        assert zg_tiny.tokenizer.encode(text, specials=True) == library_ids(library, text), repr(text)


@pytest.mark.requirement("A3")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(FREQUENT), max_size=30).map("".join))
def test_any_text_survives_encoding_and_its_pieces_are_the_text(text: str) -> None:
    """Property: pieces join to the text; decode(encode(text)) is the text, special texts read as plain."""
    assert "".join(gpt2_pieces(text)) == text
    tokenizer = open_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode()


def open_tokenizer() -> Any:
    """Hypothesis does not like function fixtures; reading costs a millisecond."""
    return open_bundle(ZG_TINY).tokenizer


@pytest.mark.requirement("A3")
def test_special_texts_become_tokens_only_when_asked(zg_tiny: ModelBundle) -> None:
    """Plain encoding must not let a prompt smuggle in control tokens."""
    tokenizer = zg_tiny.tokenizer
    assert tokenizer.encode("<|bos|>a", specials=True)[0] == tokenizer.bos
    plain = tokenizer.encode("<|bos|>a")
    assert tokenizer.bos not in plain and tokenizer.decode(plain) == b"<|bos|>a"


@pytest.mark.requirement("A3")
def test_a_hostile_run_of_blanks_takes_no_quadratic_time(zg_tiny: ModelBundle) -> None:
    """Twice the text may take little more than twice the work; counted in processor time, with a wide margin."""

    def cost(count: int) -> float:
        start = time.process_time()
        zg_tiny.tokenizer.encode("ab" * count)
        return time.process_time() - start

    assert cost(40_000) < 20 * max(cost(10_000), 0.01)


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("call", [lambda t: t.encode("a\ud800b"), lambda t: t.decode([512]), lambda t: t.decode([-1])])
def test_what_has_no_ids_or_no_bytes_is_refused(zg_tiny: ModelBundle, call: Any) -> None:
    """A lone surrogate, and ids outside the vocabulary."""
    with pytest.raises(ZeitgeistError):
        call(zg_tiny.tokenizer)


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("form", ["f32.gguf", "q4_0.gguf", "mlx-4bit"])
def test_the_tokenizers_of_all_forms_agree(zg_tiny: ModelBundle, forms: dict[str, Path], form: str) -> None:
    """Ids, bytes by id, merges, specials and chat template come back from every form."""
    tokenizer = open_bundle(forms[form]).tokenizer
    assert [tokenizer.encode(text) for text in TEXTS] == [zg_tiny.tokenizer.encode(text) for text in TEXTS]
    for name in ("token_bytes", "merges", "specials", "chat_template", "bos", "eos"):
        assert getattr(tokenizer, name) == getattr(zg_tiny.tokenizer, name), name
