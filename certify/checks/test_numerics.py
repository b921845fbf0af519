"""Family N: teacher-forced logits against the float64 oracle of the same weights, and the engine's other paths."""

from pathlib import Path

import numpy as np
import pytest

from certify import tolerance
from certify.case import Case
from certify.numerics import angle_floor, fidelity_limit, judge_logits
from certify.oracle import Oracle, OracleOptions
from certify.passages import cut
from certify.profile import Profile
from certify.registry import at_level, check
from certify.subject import Subject


@check(
    id="N.teacher-forced",
    family="N",
    clause="DESIGN §9: logits stay in the declared band",
    level="smoke",
    needs=("prefill",),
    requirement=("W1",),
    motive="https://github.com/sgl-project/sglang/pull/28237",
    expectation="every row of a prefilled passage is the oracle's, within the band",
)
@pytest.mark.parametrize(
    "length", [1, 33, 147, pytest.param(512, marks=at_level("standard")), pytest.param(1024, marks=at_level("full"))]
)
def test_teacher_forced(case: Case, subject: Subject, oracle: Oracle, model_path: Path, length: int) -> None:
    ids = cut(model_path, case.rng("ids"), length)
    session = subject.open()
    found = subject.prefill(session, ids)
    subject.close(session)
    case.seal("logits", found)
    judge_logits(case, oracle, subject.describe(), found, ids)


@check(
    id="N.random-ids",
    family="N",
    clause="DESIGN §9: logits stay in the declared band",
    level="smoke",
    needs=("prefill",),
    expectation="ids that no text would have are computed as well as text is",
    motive="https://github.com/vllm-project/vllm/issues/4697",
)
def test_random_ids(case: Case, subject: Subject, oracle: Oracle) -> None:
    ids = [int(i) for i in case.rng("ids").integers(0, oracle.config.vocab_size, 96)]
    session = subject.open()
    found = subject.prefill(session, ids)
    subject.close(session)
    judge_logits(case, oracle, subject.describe(), found, ids)


@check(
    id="N.one-token-repeated",
    family="N",
    clause="DESIGN §9: logits stay in the declared band",
    needs=("prefill",),
    expectation="64 times one token: equal keys, differing by rotation alone",
)
def test_one_token_repeated(case: Case, subject: Subject, oracle: Oracle) -> None:
    ids = [int(case.rng("id").integers(0, oracle.config.vocab_size))] * 64
    session = subject.open()
    found = subject.prefill(session, ids)
    subject.close(session)
    judge_logits(case, oracle, subject.describe(), found, ids)


@check(
    id="N.decode-steps",
    family="N",
    clause="DESIGN §9: logits stay in the declared band",
    level="smoke",
    needs=("prefill", "decode"),
    motive="https://github.com/sgl-project/sglang/issues/25790",
    expectation="32 decoded tokens have the oracle's logits, not only prefilled ones",
)
def test_decode_steps(case: Case, subject: Subject, oracle: Oracle, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), 96)
    session = subject.open()
    subject.prefill(session, ids[:64], rows="last")
    found = np.concatenate([subject.decode([session], [id]) for id in ids[64:]])
    subject.close(session)
    judge_logits(case, oracle, subject.describe(), found, ids)


@check(
    id="N.cached-is-uncached",
    family="N",
    clause="I1: decode after prefill gives what one prefill gives",
    level="smoke",
    needs=("prefill", "decode"),
    motive="https://github.com/huggingface/transformers/issues/25420",
    expectation="decoded rows equal the rows of one prefill within the cached-against-uncached bound",
)
def test_cached_is_uncached(case: Case, subject: Subject, profile: Profile, model_path: Path) -> None:
    ids = cut(model_path, case.rng("ids"), 80)
    whole = subject.open()
    rows = subject.prefill(whole, ids)
    steps = subject.open()
    subject.prefill(steps, ids[:48], rows="last")
    found = np.concatenate([subject.decode([steps], [id]) for id in ids[48:]])
    subject.close(whole)
    subject.close(steps)
    band = subject.describe().band
    largest = tolerance.max_abs(rows[48:], found)
    if band in ("x32", "x16") and not subject.describe().activations:
        key = f"cache.uncached_{band}"
        case.within("max abs", largest, profile[key], key, "logit")
        return
    case.measured("max abs", largest, "logit")
    key = f"numerics.kld_{band if band != 'x32' else 'x16'}"
    case.within("mean KL", tolerance.mean_kl(rows[48:], found), profile[key], key, "nat")


@check(
    id="N.far-positions",
    family="N",
    clause="DESIGN §9: rotary error grows with the position and stays in the band",
    needs=("prefill",),
    motive="https://github.com/Blaizzy/mlx-vlm/pull/1710",
    expectation="the last rows of a long sequence are the oracle's within the band",
)
@pytest.mark.parametrize(
    "length", [1025, pytest.param(2049, marks=at_level("full")), pytest.param(4095, marks=at_level("full"))]
)
def test_far_positions(case: Case, subject: Subject, oracle: Oracle, model_path: Path, length: int) -> None:
    if length > subject.model.config.context_length:
        return case.info(f"the model's context is {subject.model.config.context_length}")
    ids = cut(model_path, case.rng("ids"), length)
    session = subject.open()
    found = subject.prefill(session, ids)[-16:]
    subject.close(session)
    return judge_logits(case, oracle, subject.describe(), found, ids)


@check(
    id="N.precision-as-declared",
    family="N",
    clause="A2: a band and a cache dtype are claims",
    level="smoke",
    needs=("prefill",),
    requirement=("A2",),
    motive="https://github.com/ml-explore/mlx/issues/3897",
    expectation="an engine that declares a float32 cache computes attention in float32; one that does not says so",
)
def test_precision_as_declared(
    case: Case, subject: Subject, oracle: Oracle, profile: Profile, model_path: Path
) -> None:
    about = subject.describe()
    ids = cut(model_path, case.rng("ids"), 147)
    session = subject.open()
    found = subject.prefill(session, ids)
    subject.close(session)
    exact = oracle.with_options(OracleOptions(activations=about.activations)).logits(ids)
    halved = oracle.with_options(OracleOptions(kv_round="f16", activations=about.activations)).logits(ids)
    far, near = tolerance.max_abs(exact, found), tolerance.max_abs(halved, found)
    case.measured("distance to a float32 cache", far, "logit")
    case.measured("distance to a float16 cache", near, "logit")
    declared = about.cache_forms[0].k.dtype if about.cache_forms else ""
    limit = fidelity_limit(profile, exact, angle_floor(oracle, ids, exact).absolute if about.activations == "" else 0.0)
    as_f16 = far > limit and near < far / 2
    if declared == "f32" and as_f16:
        case.finding(
            "f32-cache-read-as-f16",
            "property",
            f"{case.subject_name} holds a float32 cache and attends to it in float16",
            f"max abs {far:.1e} from the float64 oracle, {near:.1e} from the oracle with K and V in float16",
            "its band is declared x16" if about.band == "x16" else "",
        )
    if about.band == "x32" and about.activations == "":
        case.within("distance to a float32 cache", far, limit, "fidelity.ulp", "logit")
    else:
        case.holds("declared", True, f"band {about.band}, cache {declared or about.cache_forms[:1]}")
