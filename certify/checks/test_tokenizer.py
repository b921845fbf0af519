"""Family T: text to ids and back. Truth is our own reading of the model's vocabulary and merges, which the repository's
tests hold against the tokenizers library on thousands of texts."""

import random
from pathlib import Path

import pytest

from certify.case import Case
from certify.passages import PASSAGE, tokenizer_of
from certify.registry import check
from certify.subject import Subject

TEXTS = {
    "empty": "",
    "one-blank": " ",
    "ascii": "The quick brown fox, isn't it? 12345 -- they'll go.",
    "code": "def f(x):\n\treturn {'a': x[1:], \"b\": 0x1F}\n\n\n    # end",
    "blank-runs": "a  b   c    d\n \n  \n\n\t\t \te   ",
    "crlf": "one\r\ntwo\rthree\r\n\r\nfour",
    "unicode": "Grüße aus Łódź – Ελλάδα, Привет, 日本語のテキスト, العربية, हिन्दी",
    "emoji": "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b\ufeffx",
    "digits": "٣٤٥ ²³ ½ Ⅷ 1,000,000.00",
    "controls": "a\x00b\x01c\x7fd\x85e\u2028f\u2029g\u3000h",
    "contractions": "I'm he'LL we'Ve 'S 'tis can't",
    "passage": PASSAGE,
}


@check(
    id="T.ids-agree",
    family="T",
    clause="I1: the engine's tokenizer is the model's",
    level="smoke",
    needs=("tokenize",),
    requirement=("W1",),
    motive="https://github.com/vllm-project/vllm/pull/16976",
    expectation="the same ids, token for token, as the vocabulary and the merges say",
)
@pytest.mark.parametrize("name", TEXTS)
def test_ids_agree(case: Case, subject: Subject, model_path: Path, name: str) -> None:
    case.exact("ids", subject.tokenize(TEXTS[name]), tokenizer_of(model_path).encode(TEXTS[name]))


@check(
    id="T.fuzz-agrees",
    family="T",
    clause="I1: the engine's tokenizer is the model's",
    needs=("tokenize",),
    expectation="300 seeded texts of mixed scripts, blanks and broken graphemes give the same ids",
)
def test_fuzz_agrees(case: Case, subject: Subject, model_path: Path) -> None:
    source = random.Random(int(case.rng("fuzz").integers(0, 2**31)))
    alphabet = "abzAZ019 \t\n\r'\",.;:!?()[]{}<>|_-+=#éßñøЖЯλπ中文字かなहिعرب🙂👍🏽\u0301\u200d\u00a0\u2003"
    words = ["'ll", "'s", "<|eos|>", "  ", "\n\n", "http://a.b/c?d=e", "don't", "1234567890"]
    mine = tokenizer_of(model_path)
    for index in range(300):
        text = "".join(
            source.choice(words) if source.random() < 0.15 else source.choice(alphabet)
            for _ in range(source.randint(1, 60))
        )
        case.exact(f"text {index}", subject.tokenize(text), mine.encode(text))


@check(
    id="T.bytes-exact",
    family="T",
    clause="I1: detokenize gives exact bytes",
    level="smoke",
    needs=("tokenize",),
    expectation="detokenize(tokenize(text)) is the text, byte for byte",
    motive="https://github.com/ai-dynamo/dynamo/issues/12630",
)
@pytest.mark.parametrize("name", [name for name in TEXTS if TEXTS[name]])
def test_bytes_exact(case: Case, subject: Subject, name: str) -> None:
    case.exact("bytes", subject.detokenize(subject.tokenize(TEXTS[name])), TEXTS[name].encode())


@check(
    id="T.piece-by-piece",
    family="T",
    clause="I1: partial UTF-8 is returned as it is",
    level="smoke",
    needs=("tokenize",),
    motive="https://github.com/vllm-project/vllm/issues/48853",
    expectation="pieces decoded one by one join to the bytes of the whole: no state, no replacement character",
)
def test_piece_by_piece(case: Case, subject: Subject) -> None:
    text = TEXTS["emoji"] + TEXTS["unicode"]
    ids = subject.tokenize(text)
    case.exact("joined", b"".join(subject.detokenize([i]) for i in ids), text.encode())


@check(
    id="T.every-id",
    family="T",
    clause="I1: every id has its bytes",
    needs=("tokenize",),
    expectation="the bytes of each ordinary id are those of the vocabulary",
)
def test_every_id(case: Case, subject: Subject, model_path: Path) -> None:
    mine = tokenizer_of(model_path)
    special = set(mine.specials.values())
    ordinary = [i for i in range(len(mine.token_bytes)) if i not in special][:4096]
    for start in range(0, len(ordinary), 64):
        ids = ordinary[start : start + 64]
        case.exact(f"ids {ids[0]}…", subject.detokenize(ids), b"".join(mine.token_bytes[i] for i in ids))


@check(
    id="T.specials-are-text",
    family="T",
    clause="I1: special-token strings in a text are plain text",
    level="smoke",
    needs=("tokenize",),
    expectation="a prompt cannot smuggle in a control token by its name",
)
def test_specials_are_text(case: Case, subject: Subject, model_path: Path) -> None:
    mine = tokenizer_of(model_path)
    for name, id in sorted(mine.specials.items()):
        found = subject.tokenize(f"a{name}b")
        case.holds(name, id not in found, f"ids {found[:12]}")
        case.exact(f"bytes of {name}", subject.detokenize(found), f"a{name}b".encode())


@check(
    id="T.nothing-added",
    family="T",
    clause="I1: no BOS is added",
    level="smoke",
    needs=("tokenize",),
    motive="https://github.com/vllm-project/vllm/issues/27486",
    expectation="the empty text has no ids, a word its own",
)
def test_nothing_added(case: Case, subject: Subject, model_path: Path) -> None:
    case.exact("empty", subject.tokenize(""), [])
    case.exact("word", subject.tokenize("word"), tokenizer_of(model_path).encode("word"))
