"""Family V: what a subject exports is what it says, the oracle's numbers in the declared form, and what it imports it
continues; a descriptor that is wrong in any field is refused by that field.

Numbers are read by the suite's own decoder (`certify/cache_numbers.py`), never by the conversion under test.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from certify.cache_cases import exported, filled, refused, same_rows, teacher_forced, unharmed
from certify.cache_numbers import numbers, row_distance
from certify.case import Case
from certify.geometry import GEOMETRIES, Geometry, write_geometry
from certify.hostile import edited, field_vectors, padded
from certify.numerics import oracle_like
from certify.oracle import Oracle, OracleCache
from certify.passages import cut
from certify.registry import at_level, check
from certify.subject import Subject
from zeitgeist.convert import kv_file
from zeitgeist.convert.kv import KVCache, layer_digests
from zeitgeist.core.formats.digest import tokens_digest

Start = Callable[..., Subject]
COUNT = 56
SMOKE = "llama-d64-kv1-gqa4-tied-theta500k"
CHOICES = [pytest.param(g, id=g.name, marks=() if g.name == SMOKE else at_level("standard")) for g in GEOMETRIES]


@pytest.fixture(scope="session")
def geometry_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this process writes geometry models."""
    return tmp_path_factory.mktemp("kv-geometry")


@dataclass(frozen=True)
class Truth:
    """The oracle's K and V of some ids with the losses that the subject declares; floor: what float32 angles cost."""

    cache: OracleCache
    floor: float

    def layers(self, first: int, stop: int) -> "Truth":
        """Of a stage."""
        return Truth(OracleCache(self.cache.k[first:stop], self.cache.v[first:stop]), self.floor)


def truth_of(oracle: Oracle, subject: Subject, ids: list[int]) -> Truth:
    """The truth, and the worst row of its twins whose rotary angles are rounded to float32 (as in family N)."""
    like = oracle_like(oracle, subject.describe())
    cache = like.prefill(ids)[1]
    twins = (like.with_options(replace(like.options, angles=way)).prefill(ids)[1] for way in ("direct", "iterated"))
    return Truth(cache, max(row_distance(twin, cache)[0] for twin in twins))


def close_to_oracle(case: Case, subject: Subject, cache: KVCache, truth: Truth, name: str = "K and V") -> None:
    """Every row of every head is the oracle's within the subject's band, or 4 × the floor in band x32."""
    distance, case.worst_text = row_distance(numbers(cache), truth.cache)
    band = subject.describe().band
    key = f"kv.row_{band}"
    case.measured(f"{name}: floor of float32 angles", truth.floor, "relative L2")
    floor = case.profile["fidelity.floor_factor"] * truth.floor if band == "x32" else 0.0
    case.within(f"{name}: worst row", distance, max(case.profile[key], floor), key, "relative L2")


@check(
    id="V.descriptor-truthful",
    family="V",
    clause="D1, A5: the descriptor says everything, and it is true",
    level="smoke",
    needs=("prefill", "cache_export"),
    requirement=("D1", "A5"),
    motive="https://github.com/LMCache/LMCache/issues/2942",
    expectation="each field is that of the model, the ids and the first form claimed; digests are of the rows sent",
)
def test_descriptor_truthful(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    session = filled(subject, ids)
    data, cache = exported(subject, session)
    subject.close(session)
    said, model, config = cache.descriptor, subject.model, subject.model.config
    for name, found, wanted in (
        ("model", said.model, model.model),
        ("tokenizer", said.tokenizer, model.tokenizer),
        ("tokens", said.tokens, tokens_digest(ids)),
        ("adapter", said.adapter, ""),
        ("rope.theta", str(said.rope.theta), str(config.rope.theta)),
        ("latent", said.latent, ""),
        ("hybrid", said.hybrid, ""),
        ("form", str(said.form), str(subject.describe().cache_forms[0])),
    ):
        case.exact(name, str(found), str(wanted))
    case.exact(
        "counts",
        [
            said.position_first,
            said.position_count,
            said.layer_first,
            said.layer_count,
            said.kv_head_count,
            said.head_dim,
            said.rope.offset,
            said.window,
            said.sink,
        ],
        [0, COUNT, 0, config.layer_count, config.kv_head_count, config.head_dim, 0, 0, 0],
    )
    case.exact("layer digests", ",".join(said.layers), ",".join(layer_digests(cache.k, cache.v, COUNT)))
    case.holds("maker", subject.describe().name.split("/")[0] in said.made_by, said.made_by)
    case.exact("the file is the canonical one", data, bytes(kv_file.dump(cache)))


@check(
    id="V.numbers-are-the-oracles",
    family="V",
    clause="D1, D2: keys after rotation, values as they are",
    level="smoke",
    needs=("prefill", "cache_export"),
    requirement=("D1", "D2"),
    motive="https://github.com/vllm-project/vllm/issues/50622",
    expectation="each head of each position is the oracle's row within the band: pairs, base, head order, axes",
)
@pytest.mark.parametrize("length", [1, 56, pytest.param(300, marks=at_level("standard"))])
def test_numbers(case: Case, subject: Subject, oracle: Oracle, model_path: Path, length: int) -> None:
    ids = cut(model_path, case.rng("ids"), length)
    session = filled(subject, ids)
    cache = exported(subject, session)[1]
    subject.close(session)
    close_to_oracle(case, subject, cache, truth_of(oracle, subject, ids))


@check(
    id="V.round-trip",
    family="V",
    clause="D2: export, import, export gives the same layer digests",
    level="smoke",
    needs=("prefill", "cache_export", "cache_import"),
    requirement=("D2",),
    motive="https://github.com/sgl-project/sglang/issues/23217",
    expectation="the cache of an imported session is the cache that was imported, byte for byte",
)
@pytest.mark.parametrize("length", [1, 56, pytest.param(257, marks=at_level("standard"))])
def test_round_trip(case: Case, subject: Subject, model_path: Path, length: int) -> None:
    ids = cut(model_path, case.rng("ids"), length)
    session = filled(subject, ids)
    data, cache = exported(subject, session)
    imported = subject.import_cache(data, ids)
    again, twin = exported(subject, imported.session)
    case.exact("layer digests", ",".join(twin.descriptor.layers), ",".join(cache.descriptor.layers))
    case.exact("file", again, data)
    case.exact("ids held", list(subject.session_info(imported.session).ids), ids)
    subject.close(session)
    subject.close(imported.session)


@check(
    id="V.continues-like-the-exporter",
    family="V",
    clause="D2: an imported session continues",
    level="smoke",
    needs=("prefill", "decode", "cache_export", "cache_import"),
    requirement=("D2",),
    motive="https://github.com/ggml-org/llama.cpp/issues/19166",
    expectation="12 decoded and 20 prefilled tokens after an import have the exporter's bits, or its values when "
    "bitwise equality is not claimed",
)
def test_continues(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT + 32)
    session = filled(subject, ids[:COUNT])
    imported = subject.import_cache(subject.export_cache(session), ids[:COUNT])
    wanted = teacher_forced(subject, session, ids[COUNT:], 12)
    same_rows(case, subject, "rows", teacher_forced(subject, imported.session, ids[COUNT:], 12), wanted)
    first, second = (exported(subject, number)[1] for number in (session, imported.session))
    if subject.describe().run_to_run:
        case.exact("caches afterwards", ",".join(second.descriptor.layers), ",".join(first.descriptor.layers))
    subject.close(session)
    subject.close(imported.session)


@check(
    id="V.export-disturbs-nothing",
    family="V",
    clause="D2: export reads",
    level="smoke",
    needs=("prefill", "decode", "cache_export"),
    requirement=("D2",),
    expectation="two exports are equal, and the session goes on like one that was never exported",
)
def test_export_disturbs_nothing(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    asked, left = filled(subject, ids[:40]), filled(subject, ids[:40])
    first = exported(subject, asked)[0]
    case.exact("second export", exported(subject, asked)[0], first)
    wanted = teacher_forced(subject, left, ids[40:])
    same_rows(case, subject, "rows", teacher_forced(subject, asked, ids[40:]), wanted)
    subject.close(asked)
    subject.close(left)


def after_decoding(subject: Subject, ids: list[int], _other: list[int]) -> int:
    """Half prefilled, half decoded."""
    session = filled(subject, ids[: COUNT // 2])
    for id in ids[COUNT // 2 :]:
        subject.decode([session], [id])
    return session


def after_truncation(subject: Subject, ids: list[int], other: list[int]) -> int:
    """A wrong turn of 24 tokens taken back."""
    session = filled(subject, [*ids[:32], *other[:24]])
    subject.truncate(session, 32)
    subject.prefill(session, ids[32:], rows="last")
    return session


def after_forking(subject: Subject, ids: list[int], other: list[int]) -> int:
    """A fork whose parent went another way and was closed."""
    parent = filled(subject, ids[:32])
    child = subject.fork(parent)
    subject.prefill(parent, other[:24], rows="last")
    subject.prefill(child, ids[32:], rows="last")
    subject.close(parent)
    return child


def after_chunks(subject: Subject, ids: list[int], _other: list[int]) -> int:
    """Prefilled in chunks of 7."""
    return filled(subject, ids, chunk=7)


HISTORIES = {"decode": after_decoding, "truncate": after_truncation, "fork": after_forking, "chunks": after_chunks}


@check(
    id="V.any-history",
    family="V",
    clause="D2: a cache is of its tokens, whatever the way to them",
    level="smoke",
    needs=("prefill", "decode", "truncate", "fork", "cache_export"),
    requirement=("D2",),
    motive="https://github.com/vllm-project/vllm/issues/52234",
    expectation="after decoding, truncation, a fork or chunks the cache is the oracle's of exactly those tokens",
)
@pytest.mark.parametrize("history", HISTORIES)
def test_any_history(case: Case, subject: Subject, oracle: Oracle, model_path: Path, history: str) -> None:
    ids, other = (cut(model_path, case.rng(name), COUNT) for name in ("ids", "other"))
    session = HISTORIES[history](subject, ids, other)
    cache = exported(subject, session)[1]
    subject.close(session)
    case.exact("tokens", str(cache.descriptor.tokens), str(tokens_digest(ids)))
    close_to_oracle(case, subject, cache, truth_of(oracle, subject, ids))


@check(
    id="V.layer-ranges",
    family="V",
    clause="D1: a cache names the layers it holds",
    level="smoke",
    needs=("prefill", "layer_range", "cache_export", "cache_import"),
    requirement=("D1", "D2"),
    expectation="a stage exports its own layers, imports them again, and refuses those of another stage",
)
def test_layer_ranges(case: Case, subject: Subject, oracle: Oracle, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    layers = subject.model.config.layer_count
    middle = layers // 2
    front, back = subject.open(0, middle), subject.open(middle, layers)
    hidden = subject.forward_range(front, ids)
    case.refuses(lambda: (subject.forward_range(back, hidden), subject.export_cache(back)), "zg/backend/tokens-unknown")
    subject.close(back)
    back = subject.open(middle, layers)
    subject.forward_range(back, hidden, ids)
    truth = truth_of(oracle, subject, ids)
    files: list[bytes] = []
    for session, first, stop in ((front, 0, middle), (back, middle, layers)):
        data, cache = exported(subject, session)
        case.exact(
            f"layers of [{first}, {stop})",
            [cache.descriptor.layer_first, cache.descriptor.layer_count],
            [first, stop - first],
        )
        close_to_oracle(case, subject, cache, truth.layers(first, stop), f"[{first}, {stop})")
        imported = subject.import_cache(data, ids, first, stop)
        case.exact(f"again [{first}, {stop})", exported(subject, imported.session)[0], data)
        subject.close(imported.session)
        subject.close(session)
        files.append(data)
    case.refuses(lambda: subject.import_cache(files[0], ids, middle, layers), "zg/cache/layer-range")
    case.refuses(lambda: subject.import_cache(files[0], ids), "zg/cache/layer-range")


@check(
    id="V.empty-session-refused",
    family="V",
    clause="D1: a cache holds tokens",
    level="smoke",
    needs=("cache_export", "cache_import"),
    requirement=("D1",),
    motive="whole empty caches were saved and restored: https://github.com/ggml-org/llama.cpp/issues/19466",
    expectation="exporting an empty session and importing for no tokens are refused",
)
def test_empty_session(case: Case, subject: Subject, model_path: Path) -> None:
    session = subject.open()
    case.refuses(lambda: subject.export_cache(session), field="session")
    subject.close(session)
    ids = cut(model_path, case.rng("ids"), 4)
    session = filled(subject, ids)
    data = subject.export_cache(session)
    subject.close(session)
    case.refuses(lambda: subject.import_cache(data, []), field="position_count")


@check(
    id="V.wrong-field-refused",
    family="V",
    clause="A5: each field of the descriptor has a vector that is refused by name",
    level="smoke",
    needs=("prefill", "decode", "cache_export", "cache_import"),
    requirement=("A5", "D3"),
    motive="https://github.com/ai-dynamo/dynamo/issues/11543",
    expectation="caches that are wrong in one field each are refused by that field; open sessions stay as they were",
)
def test_wrong_field_refused(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    session = filled(subject, ids)
    data = exported(subject, session)[0]
    subject.close(session)
    with unharmed(case, subject, ids):
        for vector in field_vectors(data, ids):
            refused(case, subject, vector, ids)


@check(
    id="V.padding-never-read",
    family="V",
    clause="D1: rows past position_count are never read",
    level="smoke",
    needs=("prefill", "decode", "cache_export", "cache_import"),
    requirement=("D1",),
    motive="MLX keeps and saves 256 rows at a time (research note, feasibility §4.1)",
    expectation="a cache with rows of NaN behind its valid rows continues bit for bit like the one without",
)
def test_padding_never_read(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    session = filled(subject, ids[:40])
    data, cache = exported(subject, session)
    plain = subject.import_cache(data, ids[:40]).session
    filler = subject.import_cache(padded(cache, 24), ids[:40]).session
    case.exact("held", exported(subject, filler)[0], data)
    wanted = teacher_forced(subject, plain, ids[40:])
    same_rows(case, subject, "rows", teacher_forced(subject, filler, ids[40:]), wanted)
    for number in (session, plain, filler):
        subject.close(number)


@check(
    id="V.harmless-extension-kept",
    family="V",
    clause="A5: an unknown extension that is not critical is no reason to refuse",
    level="smoke",
    needs=("prefill", "cache_export", "cache_import"),
    requirement=("A5",),
    expectation="the cache is imported, and its numbers are those without the extension",
)
def test_harmless_extension(case: Case, subject: Subject, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), COUNT)
    session = filled(subject, ids)
    data, cache = exported(subject, session)
    vendor = edited(data, {"extensions": {"vendor.example/note": {"critical": False, "body": "AAEC"}}})
    case.exact("kept in the file", kv_file.load(vendor).descriptor.extensions["vendor.example/note"].body, b"\0\1\2")
    imported = subject.import_cache(vendor, ids).session
    again = exported(subject, imported)[1]
    case.exact("layer digests", ",".join(again.descriptor.layers), ",".join(cache.descriptor.layers))
    subject.close(session)
    subject.close(imported)


def hadamard_trap(case: Case, name: str, cache: KVCache, truth: OracleCache) -> None:
    """Report how far the stored numbers are from the truth with and without the rotation taken off."""
    form, found = cache.descriptor.form, numbers(cache)
    if not (form.k.hadamard or form.v.hadamard):
        return
    blind = msgspec.structs.replace(
        form, k=msgspec.structs.replace(form.k, hadamard=0), v=msgspec.structs.replace(form.v, hadamard=0)
    )
    naive = KVCache(msgspec.structs.replace(cache.descriptor, form=blind), cache.k, cache.v)
    taken, left = row_distance(found, truth)[0], row_distance(numbers(naive), truth)[0]
    case.measured("worst row with the rotation taken off", taken, "relative L2")
    case.measured("worst row with the rotation left in", left, "relative L2")
    case.finding(
        "hadamard-rotated-quantised-cache",
        "trap",
        f"{case.subject_name} stores quantised K and V rotated by Hadamard blocks of {form.k.hadamard} and "
        f"{form.v.hadamard}; its state blob does not say so",
        f"on {name} the worst row is {taken:.1e} from the oracle, {left:.1e} if the rotation is left in",
        "the adapter declares the blocks in the cache's form, and every conversion takes them off",
    )


@check(
    id="V.geometry",
    family="V",
    clause="D1, D2: the same on every shape",
    level="smoke",
    needs=("prefill", "cache_export", "cache_import"),
    requirement=("D1", "D2"),
    motive="https://github.com/ggml-org/llama.cpp/issues/21125",
    expectation="on heads of 64, 80, 128, one and two KV heads, other bases, scalings, biases and norms the cache "
    "is the oracle's, and a round trip keeps its digests",
)
@pytest.mark.parametrize("geometry", CHOICES)
def test_geometry(case: Case, subject: Subject, start: Start, geometry: Geometry, geometry_dir: Path) -> None:
    if geometry.family not in subject.describe().families:
        return case.info(f"family {geometry.family} is not claimed")
    path = geometry_dir / geometry.name
    path = path if path.exists() else write_geometry(geometry, case.seed, path)
    ids = [int(i) for i in case.rng("ids").integers(0, 512, 72)]
    blocks = 32 if any(side.quant for form in subject.describe().cache_forms for side in (form.k, form.v)) else 1
    if geometry.head_dim % blocks:
        return case.info(f"head_dim {geometry.head_dim} is not whole blocks of {blocks}")
    worker = start(model_path=path)
    data, cache = exported(worker, filled(worker, ids))
    truth = truth_of(Oracle.open(path), worker, ids)
    hadamard_trap(case, geometry.name, cache, truth.cache)
    close_to_oracle(case, worker, cache, truth)
    imported = worker.import_cache(data, ids)
    return case.exact("round trip", exported(worker, imported.session)[0], data)
