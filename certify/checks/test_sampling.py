"""Family S: greedy and seeded sampling. The draw is canonical (Gumbel-max over Philox): the oracle's logits predict it.

Where the two best candidates lie closer than the band's near-tie the engines may differ honestly; the walk ends there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from certify.case import Case
from certify.oracle import Oracle
from certify.passages import cut
from certify.profile import Profile
from certify.registry import check
from certify.subject import Subject
from certify.tolerance import log_softmax
from zeitgeist.core.ids import Real
from zeitgeist.sampling import GREEDY, SamplingParams, gumbel, sample

PROMPT, COUNT = 48, 24
CLEAR, PROMPTS = 4, 4
"""Four tokens of 512 are not guessed. One honest run in a hundred met a near-tie sooner; four in a row: one in 10^8."""
SEEDED = SamplingParams(seed=7, temperature=Real("0.9"), top_k=40, top_p=Real("0.95"))


def ids_of(tokens: Sequence[object]) -> list[int]:
    """Ids of generated tokens."""
    return [int(getattr(token, "id")) for token in tokens]  # noqa: B009 - tokens are records of another layer


def margin(row: np.ndarray, params: SamplingParams, position: int) -> float:
    """Distance of the two best candidates in what is maximised: the logit, or logit / T + noise, in logits."""
    temperature = float(params.temperature)
    if temperature == 0:
        best = np.partition(row, -2)[-2:]
        return float(best[1] - best[0])
    scores = row / temperature + gumbel(params.seed, position, np.arange(row.size))
    best = np.partition(scores, -2)[-2:]
    return float(best[1] - best[0]) * temperature


def walks(case: Case, subject: Subject, oracle: Oracle, profile: Profile, model: Path, params: SamplingParams) -> None:
    """Walks from prompts of the seed's, until `CLEAR` tokens were compared. A near-tie may end one at its first token;
    that says nothing of the subject, so the next prompt is taken, `PROMPTS` at most."""
    rng = case.rng("prompt")
    compared = 0
    for _ in range(PROMPTS):
        prompt = cut(model, rng, PROMPT)
        found = ids_of(subject.generate(prompt, COUNT, params).tokens)
        case.holds("count", len(found) == COUNT, f"{len(found)} tokens")
        compared += walk(case, oracle, profile, subject.describe().band, prompt, found, params)
        if compared >= CLEAR:
            break
    case.measured("tokens compared", compared)
    case.inconclusive_if(compared < CLEAR, f"near-ties after {compared} tokens leave too little to judge")


def walk(
    case: Case, oracle: Oracle, profile: Profile, band: str, prompt: list[int], found: list[int], params: SamplingParams
) -> int:
    """Each token is the one that the oracle's logits and the seed give, up to the first near-tie. Gives their count."""
    rows = oracle.logits([*prompt, *found])
    near = profile["numerics.near_tie_x32" if band == "x32" else "numerics.near_tie_x16"]
    compared = 0
    for index, token in enumerate(found):
        row, position = rows[len(prompt) + index - 1], len(prompt) + index
        if margin(row, params, position) <= near:
            break
        wanted = int(sample(row.astype(np.float32), params, position).id)
        case.holds(f"token {index}", token == wanted, f"id {token}, the oracle and the seed give {wanted}")
        compared += 1
    return compared


def exact_band(subject: Subject) -> bool:
    """Quantised engines part from the oracle honestly; their draws are judged against their own logits only."""
    return subject.describe().band in ("x32", "x16")


@check(
    id="S.greedy-is-the-oracles",
    family="S",
    clause="E5: greedy is argmax, lowest id on ties",
    level="smoke",
    needs=("prefill", "decode", "logprobs"),
    expectation="24 greedy tokens are those of the float64 oracle, up to a near-tie",
    motive="llama_cpp.server applies repeat_penalty 1.1 by default, so temperature 0 is not argmax",
)
def test_greedy_is_the_oracles(
    case: Case, subject: Subject, oracle: Oracle, profile: Profile, model_path: Path
) -> None:
    if not exact_band(subject):
        return case.info("a quantised engine is judged against its own logits (S.greedy-is-its-own-argmax)")
    walks(case, subject, oracle, profile, model_path, GREEDY)
    return None


@check(
    id="S.greedy-is-its-own-argmax",
    family="S",
    clause="E5: greedy is argmax of the engine's logits",
    level="smoke",
    needs=("prefill", "decode"),
    expectation="each greedy token is the argmax of the same engine's decode logits",
)
def test_greedy_is_its_own_argmax(case: Case, subject: Subject, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    found = ids_of(subject.generate(prompt, 8, GREEDY).tokens)
    session = subject.open()
    row = subject.prefill(session, prompt, rows="last")[-1]
    mine: list[int] = []
    for _ in found:
        mine.append(int(np.argmax(row)))
        row = subject.decode([session], [mine[-1]])[0]
    subject.close(session)
    case.exact("tokens", found, mine)


@check(
    id="S.seeded-is-the-oracles",
    family="S",
    clause="E5: a seeded draw depends on logits, parameters and position alone",
    needs=("prefill", "decode"),
    motive="https://github.com/flashinfer-ai/flashinfer/pull/4861",
    expectation="24 tokens at temperature 0.9 are those that the oracle's logits and the seed give, up to a near-tie",
)
@pytest.mark.parametrize("seed", [1, 2, 2**63 + 5])
def test_seeded_is_the_oracles(
    case: Case, subject: Subject, oracle: Oracle, profile: Profile, model_path: Path, seed: int
) -> None:
    if not exact_band(subject):
        return case.info("a quantised engine's draws are judged by repetition (S.seed-repeats)")
    params = SamplingParams(seed=seed, temperature=Real("0.9"))
    walks(case, subject, oracle, profile, model_path, params)
    return None


@check(
    id="S.seed-repeats",
    family="S",
    clause="E5: the same seed gives the same tokens, another seed others",
    level="smoke",
    needs=("prefill", "decode"),
    expectation="two runs with one seed are equal, four seeds give at least two outputs",
)
def test_seed_repeats(case: Case, subject: Subject, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    runs = {
        seed: ids_of(subject.generate(prompt, 12, SamplingParams(seed=seed, temperature=Real("1.0"))).tokens)
        for seed in (11, 12, 13, 14)
    }
    again = ids_of(subject.generate(prompt, 12, SamplingParams(seed=11, temperature=Real("1.0"))).tokens)
    case.exact("seed 11 again", again, runs[11])
    distinct = len({tuple(run) for run in runs.values()})
    case.holds("seeds differ", distinct >= 2, f"{distinct} outputs from four seeds")


@check(
    id="S.moves-midway",
    family="S",
    clause="E5: the same tokens after a move",
    needs=("prefill", "decode"),
    motive="https://github.com/ROCm/aiter/pull/2035",
    expectation="twelve tokens in one go equal four, then eight from a fresh session that was given the first four",
)
def test_moves_midway(case: Case, subject: Subject, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    whole = ids_of(subject.generate(prompt, 12, SEEDED).tokens)
    first = ids_of(subject.generate(prompt, 4, SEEDED).tokens)
    rest = ids_of(subject.generate([*prompt, *first], 8, SEEDED).tokens)
    case.exact("joined", [*first, *rest], whole)


@check(
    id="S.narrow-is-greedy",
    family="S",
    clause="E5: top_k 1 and top_p 0 leave the best token",
    level="smoke",
    needs=("prefill", "decode"),
    motive="https://github.com/flashinfer-ai/flashinfer/pull/3774",
    expectation="at temperature 1 with top_k 1, and with top_p 0, the tokens are the greedy ones",
)
def test_narrow_is_greedy(case: Case, subject: Subject, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    greedy = ids_of(subject.generate(prompt, 8, GREEDY).tokens)
    one = SamplingParams(seed=3, temperature=Real("1.0"), top_k=1)
    none = SamplingParams(seed=3, temperature=Real("1.0"), top_p=Real("0.0"))
    case.exact("top_k 1", ids_of(subject.generate(prompt, 8, one).tokens), greedy)
    case.exact("top_p 0", ids_of(subject.generate(prompt, 8, none).tokens), greedy)


@check(
    id="S.logprobs-are-raw",
    family="S",
    clause="I1: logprobs are of the raw distribution",
    level="smoke",
    needs=("prefill", "decode", "logprobs"),
    motive="https://github.com/vllm-project/vllm/issues/9453",
    expectation="reported logprobs at temperature 0.9 are log-softmax of the oracle's logits, not of the filtered ones",
)
def test_logprobs_are_raw(case: Case, subject: Subject, oracle: Oracle, profile: Profile, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    tokens = subject.generate(prompt, COUNT, SEEDED).tokens
    ids = ids_of(tokens)
    rows = log_softmax(oracle.logits([*prompt, *ids])[len(prompt) - 1 : -1])
    worst = max(abs(token.logprob - rows[index, token.id]) for index, token in enumerate(tokens))
    band = subject.describe().band
    key = {"x32": "numerics.max_abs_x32", "x16": "numerics.rescore"}.get(band)
    if key is None:
        case.measured("worst logprob difference", float(worst), "nat")
        return case.info("a quantised engine's logprobs are judged by S.rescore")
    case.within("worst logprob difference", float(worst), profile[key], key, "nat")
    return None


@check(
    id="S.rescore",
    family="S",
    clause="I1: a sequence scores the same when it is read as when it was written",
    needs=("prefill", "decode", "logprobs"),
    motive="https://github.com/vllm-project/vllm/issues/53488",
    expectation="logprobs reported while generating equal those of a prefill of the same ids",
)
def test_rescore(case: Case, subject: Subject, profile: Profile, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    tokens = subject.generate(prompt, COUNT, SEEDED).tokens
    session = subject.open()
    rows = log_softmax(subject.prefill(session, [*prompt, *ids_of(tokens)])[len(prompt) - 1 : -1])
    subject.close(session)
    worst = max(abs(token.logprob - rows[index, token.id]) for index, token in enumerate(tokens))
    key = "cache.uncached_x32" if subject.describe().band == "x32" else "numerics.rescore"
    case.within("worst difference", float(worst), profile[key], key, "nat")


@check(
    id="S.bytes-of-tokens",
    family="S",
    clause="E4: a token is (index, id, bytes, logprob)",
    level="smoke",
    needs=("prefill", "decode", "tokenize"),
    expectation="each token's bytes are those of its id; together they are the text",
)
def test_bytes_of_tokens(case: Case, subject: Subject, model_path: Path) -> None:
    tokens = subject.generate(cut(model_path, case.rng("prompt"), PROMPT), 12, SEEDED).tokens
    case.exact("bytes", b"".join(token.data for token in tokens), subject.detokenize(ids_of(tokens)))


@check(
    id="S.stop-id-ends",
    family="S",
    clause="I1: a stop id ends the stream",
    level="smoke",
    needs=("prefill", "decode"),
    motive="https://github.com/vllm-project/vllm/pull/45636",
    expectation="generation ends at the stop id, and says so",
)
def test_stop_id_ends(case: Case, subject: Subject, model_path: Path) -> None:
    prompt = cut(model_path, case.rng("prompt"), PROMPT)
    ids = ids_of(subject.generate(prompt, 12, SEEDED).tokens)
    stopped = subject.generate(prompt, 12, SEEDED, stop_ids=[ids[5]])
    first = ids.index(ids[5])
    case.holds("finish", stopped.finish == "stop", stopped.finish)
    case.holds(
        "ids",
        ids_of(stopped.tokens)[:first] == ids[:first] and len(stopped.tokens) <= first + 1,
        f"{len(stopped.tokens)} tokens, the stop id comes at {first}",
    )
