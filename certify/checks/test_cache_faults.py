"""Family F: a damaged, stale, foreign, half-written or spent cache is refused before the engine sees a byte of it.

A refusal leaves every open session, and the numbers of the next one, as they were. Real SafeTensors bytes are sent.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from certify.cache_cases import exported, filled, refused, same_rows, teacher_forced, unharmed
from certify.case import Case
from certify.hostile import Vector, file_vectors, flipped, number_vectors
from certify.passages import cut
from certify.registry import at_level, check
from certify.subject import Subject
from zeitgeist.convert import kv_file
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.host.workers import WorkerFailed

COUNT = 48
NEEDS = ("prefill", "decode", "cache_export", "cache_import")


def honest(case: Case, subject: Subject, model_path: Path) -> tuple[list[int], bytes]:
    """(ids, the file of their cache)."""
    ids = cut(model_path, case.rng("ids"), COUNT)
    session = filled(subject, ids)
    data = exported(subject, session)[0]
    subject.close(session)
    return ids, data


@check(
    id="F.file-refused",
    family="F",
    clause="DESIGN §4, A5: fail closed",
    level="smoke",
    needs=NEEDS,
    requirement=("D2", "A5"),
    motive="llama.cpp ignores trailing bytes (research note, feasibility §4.2)",
    expectation="cut, lengthened, half-written, overlapping, doubled and impossible files are refused by name",
)
def test_file_refused(case: Case, subject: Subject, model_path: Path) -> None:
    ids, data = honest(case, subject, model_path)
    with unharmed(case, subject, ids):
        for vector in file_vectors(data):
            refused(case, subject, vector, ids)


@check(
    id="F.numbers-refused",
    family="F",
    clause="DESIGN §4, D3: no engine sees damaged numbers",
    level="smoke",
    needs=NEEDS,
    requirement=("D3", "A5"),
    motive="llama.cpp takes NaN in a cache and answers with NaN (feasibility §4)",
    expectation="swapped heads, shifted positions, zeroed rows, K for V are refused by layer, NaN and Inf by side, "
    "even when the digests match",
)
def test_numbers_refused(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    session = filled(subject, ids)
    cache = exported(subject, session)[1]
    subject.close(session)
    with unharmed(case, subject, ids):
        for vector in number_vectors(cache):
            refused(case, subject, vector, ids)


def places(case: Case, data: bytes, count: int) -> tuple[list[int], list[int]]:
    """(bits in length and header, bits in the payload) picked by the seed."""
    stop = 8 + int.from_bytes(data[:8], "little")
    source = case.rng("bits")
    return (
        [int(i) for i in source.integers(0, 8 * stop, count)],
        [int(i) for i in source.integers(8 * stop, 8 * len(data), count)],
    )


@check(
    id="F.bit-flips",
    family="F",
    clause="DESIGN §4: fail closed",
    level="smoke",
    needs=NEEDS,
    requirement=("A5",),
    motive="https://github.com/LMCache/LMCache/issues/3115",
    expectation="a flipped bit in the payload is refused by its layer; one in the header is refused, or is in the "
    "maker's name, which nothing depends on",
)
@pytest.mark.parametrize(
    "count", [12, pytest.param(48, marks=at_level("standard")), pytest.param(400, marks=at_level("full"))]
)
def test_bit_flips(case: Case, subject: Subject, model_path: Path, count: int) -> None:
    ids, data = honest(case, subject, model_path)
    header, payload = places(case, data, count)
    with unharmed(case, subject, ids):
        for bit in payload:
            error = attempt(subject, flipped(data, bit), ids)
            case.holds(
                f"payload bit {bit}",
                error is not None and error.id in PAYLOAD_IDS and bool(error.field),
                "accepted" if error is None else str(error),
            )
        for bit in header:
            error = attempt(subject, flipped(data, bit), ids)
            case.holds(
                f"header bit {bit}",
                bool(error.field) if error else only_the_maker(data, flipped(data, bit)),
                str(error) if error else "a letter of the maker's name",
            )


PAYLOAD_IDS = ("zg/cache/layer-digest", "zg/cache/not-finite")


def attempt(subject: Subject, data: bytes, ids: Sequence[int]) -> ZeitgeistError | None:
    """The refusal, or None when the cache was taken (and let go again). A worker that fails is no refusal."""
    try:
        imported = subject.import_cache(data, ids)
    except WorkerFailed:
        raise
    except ZeitgeistError as error:
        if error.id == "zg/backend/failed":
            raise
        return error
    subject.close(imported.session)
    return None


def only_the_maker(data: bytes, changed: bytes) -> bool:
    """Do two files differ in nothing but `made_by`?"""
    one, other = kv_file.load(data), kv_file.load(changed)
    renamed = msgspec.structs.replace(other.descriptor, made_by=one.descriptor.made_by)
    return renamed == one.descriptor and data[-one.nbytes :] == changed[-one.nbytes :]


@check(
    id="F.garbage-refused",
    family="F",
    clause="DESIGN §4: fail closed",
    needs=NEEDS,
    requirement=("A5",),
    expectation="bytes without meaning, bare or behind an honest header, are refused; nothing crashes",
)
def test_garbage(case: Case, subject: Subject, model_path: Path) -> None:
    ids, data = honest(case, subject, model_path)
    source, stop = case.rng("garbage"), 8 + int.from_bytes(data[:8], "little")
    with unharmed(case, subject, ids):
        for round in range(24):
            noise = source.integers(0, 256, len(data) - stop, dtype=np.uint8).tobytes()
            short = source.integers(0, 256, int(source.integers(1, 4096)), dtype=np.uint8).tobytes()
            for what, file in (
                ("noise", short),
                ("noise behind a header", data[:stop] + noise),
                ("noise as header", data[:8] + noise[: stop - 8] + data[stop:]),
            ):
                error = attempt(subject, file, ids)
                case.holds(
                    f"{what} {round}",
                    error is not None and bool(error.field),
                    "accepted" if error is None else error.id,
                )


@check(
    id="F.stale-refused",
    family="F",
    clause="DESIGN §4: a stale cache is impossible to import by accident",
    level="smoke",
    needs=NEEDS,
    requirement=("D2", "A5"),
    motive="https://github.com/vllm-project/vllm/issues/52234",
    expectation="the cache of an earlier, a longer or an edited text is not taken for that of the text asked for",
)
def test_stale(case: Case, subject: Subject, model_path: Path) -> None:
    ids, data = honest(case, subject, model_path)
    vocab = subject.model.config.vocab_size
    edited = [ids[0], (ids[1] + 1) % vocab, *ids[2:]]
    with unharmed(case, subject, ids):
        for name, asked, field in (
            ("a later turn", [*ids, *ids[:4]], "position_count"),
            ("an earlier turn", ids[:-4], "position_count"),
            ("an edited token", edited, "tokens"),
            ("two tokens in another order", [*ids[:-2], ids[-1], ids[-2]], "tokens"),
            ("the tokens one position on", [*ids[1:], ids[0]], "tokens"),
            ("another text of the same length", cut(model_path, case.rng("other"), COUNT), "tokens"),
        ):
            if asked != ids:
                refused(case, subject, Vector(name, data, f"zg/cache/{field.partition('_')[0]}", field), asked)


@check(
    id="F.foreign-model-refused",
    family="F",
    clause="DESIGN §4: the model digest makes a foreign cache impossible",
    level="smoke",
    needs=NEEDS,
    requirement=("A5", "A3"),
    motive="https://github.com/vllm-project/vllm/issues/26974",
    expectation="an honest cache of a model that differs in one bit of one weight, or in one number of its "
    "configuration, is refused",
)
def test_foreign_model(
    case: Case, subject: Subject, start: Callable[..., Subject], model_path: Path, tmp_path: Path
) -> None:
    weights = model_path / "model.safetensors"
    if not weights.is_file():
        case.info("the model is not a Hugging Face directory that could be changed in one weight")
        return
    ids = cut(model_path, case.rng("ids"), COUNT)
    other = tmp_path / "one-bit"
    shutil.copytree(model_path, other)
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    (other / "model.safetensors").write_bytes(content)
    theta = tmp_path / "other-theta"
    shutil.copytree(model_path, theta)
    change_theta(theta / "config.json")
    with unharmed(case, subject, ids):
        for path, field in ((other, "model"), (theta, "model")):
            maker = start(model_path=path, backend="reference")
            data = bytes(maker.export_cache(filled(maker, ids)))
            refused(case, subject, Vector(path.name, data, "zg/cache/model", field), ids)


def change_theta(path: Path) -> None:
    """Another rotary base, wherever this form of configuration keeps it."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    inner: dict[str, Any] = config.get("rope_parameters") or {}
    for place in (config, inner):
        if "rope_theta" in place:
            place["rope_theta"] = 54321.0
    path.write_text(json.dumps(config), encoding="utf-8")


@check(
    id="F.spent-session-refused",
    family="F",
    clause="I1, D2: what is closed is gone",
    level="smoke",
    needs=NEEDS,
    requirement=("D2", "I1"),
    motive="https://github.com/kvcache-ai/Mooncake/issues/1384",
    expectation="a closed session neither exports nor continues, and its number is not given away again",
)
def test_spent_session(case: Case, subject: Subject, model_path: Path) -> None:
    ids, data = honest(case, subject, model_path)
    first = subject.import_cache(data, ids).session
    subject.close(first)
    case.refuses(lambda: subject.export_cache(first), "zg/backend/no-such-session")
    case.refuses(lambda: subject.prefill(first, ids[:1]), "zg/backend/no-such-session")
    second = subject.import_cache(data, ids).session
    case.holds("numbers", second != first, f"sessions {first} and {second}")
    case.exact("cache of the second", exported(subject, second)[0], data)
    subject.close(second)


@check(
    id="F.imports-are-apart",
    family="F",
    clause="D2: an import is a copy",
    level="smoke",
    needs=NEEDS,
    requirement=("D2",),
    motive="https://github.com/waybarrios/vllm-mlx/issues/384",
    expectation="two sessions imported from the same bytes go on apart; the bytes may be freed at once",
)
def test_imports_are_apart(case: Case, subject: Subject, model_path: Path) -> None:
    ids, data = honest(case, subject, model_path)
    other = cut(model_path, case.rng("other"), 12)
    alone = subject.import_cache(data, ids).session
    wanted = teacher_forced(subject, alone, ids[:12], 12)
    buffer = bytearray(data)
    one = subject.import_cache(memoryview(buffer), ids).session
    buffer[:] = bytes(len(buffer))
    two = subject.import_cache(data, ids).session
    rows: list[np.ndarray] = []
    for mine, theirs in zip(ids[:12], other, strict=True):
        subject.decode([two], [theirs])
        rows.append(subject.decode([one], [mine]))
    same_rows(case, subject, "beside the other", np.concatenate(rows), wanted)
    for session in (alone, one, two):
        subject.close(session)
