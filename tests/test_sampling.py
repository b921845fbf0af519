"""The canonical sampler: published vectors, the distribution it promises, and rules at the edges."""

import math

import numpy as np
import pytest

from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.ids import Real
from zeitgeist.sampling import GREEDY, SamplingParams, distribution, gumbel, logprobs, philox4x32, ranked, sample

pytestmark = pytest.mark.requirement("E5")

DICTATED = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -3.0, -np.inf], dtype=np.float32)
DRAWS = 4_000


def drawn(logits, draws=DRAWS, **fields):
    """Counts per id over many positions of one seed."""
    params = SamplingParams(**{"temperature": Real("1.0"), **fields})
    return np.bincount([sample(logits, params, position).id for position in range(draws)], minlength=len(logits))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    """kat_vectors of Random123, philox4x32 with 10 rounds."""
    assert tuple(int(word) for word in philox4x32(counter, key)) == words


def test_philox_of_an_array_is_philox_of_each():
    """Vectorising over ids changes no word."""
    many = philox4x32((np.arange(50), 7, 0, 0), (3, 4))
    assert all(
        tuple(int(w[i]) for w in many) == tuple(int(w) for w in philox4x32((i, 7, 0, 0), (3, 4))) for i in range(50)
    )


def test_gumbel_noise_is_gumbel():
    """Mean is Euler's constant and variance pi^2/6, within 5 standard errors of 200,000 draws."""
    noise = gumbel(11, 5, np.arange(200_000))
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - 0.5772156649) < 5 * noise.std() / math.sqrt(noise.size)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.03)


def chi_square_limit(freedom, z=4.27):
    """Quantile of chi-square at alpha = 1e-5 (z of the normal) by Wilson and Hilferty."""
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": Real("0.5")},
        {"top_k": 3},
        {"top_p": Real("0.8")},
        {"min_p": Real("0.2")},
        {"temperature": Real("2.0"), "top_k": 6, "top_p": Real("0.9"), "min_p": Real("0.1"), "seed": 2**64 - 1},
    ],
    ids=str,
)
def test_tokens_are_drawn_with_the_promised_probabilities(fields):
    """Chi-square on dictated logits, alpha 1e-5; ids of probability zero are never drawn."""
    counts = drawn(DICTATED, **fields)
    expected = distribution(DICTATED, SamplingParams(**{"temperature": Real("1.0"), **fields})) * DRAWS
    live = expected > 0
    assert counts[~live].sum() == 0
    assert ((counts - expected)[live] ** 2 / expected[live]).sum() < chi_square_limit(int(live.sum()) - 1)


def test_a_seed_gives_the_same_tokens_after_a_move_and_another_seed_gives_others():
    """The choice at a position needs no history: reading positions backwards changes nothing; seeds are strangers."""
    params = SamplingParams(seed=5, temperature=Real("1.0"))
    forwards = [sample(DICTATED, params, p).id for p in range(200)]
    assert forwards == [sample(DICTATED, params, p).id for p in reversed(range(200))][::-1]
    other = [sample(DICTATED, SamplingParams(seed=6, temperature=Real("1.0")), p).id for p in range(200)]
    chance = float((distribution(DICTATED, params) ** 2).sum())
    agree = sum(a == b for a, b in zip(forwards, other, strict=True)) / 200
    assert abs(agree - chance) < 5 * math.sqrt(chance * (1 - chance) / 200)


def test_greedy_takes_the_lowest_of_equal_ids():
    """Temperature zero; rule 2."""
    assert sample(np.array([1, 3, 3, 2], dtype=np.float32), GREEDY, 9).id == 1


@pytest.mark.parametrize(
    ("logits", "fields", "live"),
    [
        ([1, 1, 1, 1], {"top_k": 2}, [0, 1]),
        ([0, 1, 1, 1], {"top_k": 2}, [1, 2]),
        ([0, 0, 0, 0], {"top_p": Real("0.5")}, [0, 1]),
        ([0, 0, 0, 0], {"top_p": Real("0.51")}, [0, 1, 2]),
        ([0, 5, 0, 0], {"top_p": Real("0.0")}, [1]),
        ([0, 0, 0, -np.inf], {"top_k": 4}, [0, 1, 2]),
        ([0, 0, -1, -2], {"min_p": Real("1.0")}, [0, 1]),
        ([2, 1, 0, 0], {"top_k": 2, "top_p": Real("0.74")}, [0, 1]),
        ([2, 1, 0, 0], {"top_k": 2, "top_p": Real("0.73")}, [0]),
    ],
    ids=str,
)
def test_filters_keep_exactly_what_their_rules_say(logits, fields, live):
    """Ties, crossing tokens and renormalisation after top_k; rules 4 to 6. e^2/(e^2+e) = 0.731."""
    params = SamplingParams(temperature=Real("1.0"), **fields)
    assert np.flatnonzero(distribution(np.array(logits, dtype=np.float32), params)).tolist() == live


def test_logprobs_are_of_the_raw_logits():
    """Temperature and filters leave the report alone; the top list is ordered by (logit falling, id rising)."""
    params = SamplingParams(temperature=Real("0.3"), top_k=1, top_logprobs=3)
    token = sample(np.array([1, 2, 2, 0], dtype=np.float32), params, 0)
    assert (token.id, [id for id, _ in token.top]) == (1, [1, 2, 0])
    assert token.logprob == pytest.approx(2 - math.log(math.e + 2 * math.e**2 + 1), abs=1e-6)
    assert np.exp(logprobs(DICTATED)).sum() == pytest.approx(1, abs=1e-12)


def test_ranking_by_partition_is_ranking_by_sort():
    """Many ties at the edge."""
    values = np.random.default_rng(3).integers(0, 6, 100).astype(np.float32)
    assert all(ranked(values, n) == sorted(range(100), key=lambda i: (-values[i], i))[:n] for n in range(101))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"temperature": Real("-1")}, "temperature"),
        ({"temperature": Real("nan")}, "temperature"),
        ({"top_p": Real("1.5")}, "top_p"),
        ({"min_p": Real("x")}, "min_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"top_logprobs": 9}, "top_logprobs"),
    ],
)
def test_parameters_outside_their_range_are_refused_by_name(fields, name):
    """Every field."""
    with pytest.raises(LocalProtocolError) as refusal:
        sample(DICTATED, SamplingParams(**fields), 0)
    assert (refusal.value.id, refusal.value.field) == ("zg/sampling/bad-params", name)


@pytest.mark.parametrize("logits", [[1, np.nan], [np.inf, 0], [-np.inf, -np.inf], [], [[1.0]]], ids=str)
def test_logits_that_are_not_numbers_are_refused(logits):
    """Rule 1."""
    with pytest.raises(LocalProtocolError, match="bad-logits"):
        sample(np.array(logits, dtype=np.float32), GREEDY, 0)
