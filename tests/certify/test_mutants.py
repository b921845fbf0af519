"""The bank (W4): each entry can be made, names families that exist, and claims what the reference does."""

import importlib

import pytest

from certify.mutants.bank import GROUPS, HONEST, MUTANTS, Mutant
from certify.mutants.selftest import FAMILIES as HONEST_FAMILIES
from certify.registry import FAMILIES, load_checks
from zeitgeist.backends.reference import ReferenceBackend
from zeitgeist.backends.registry import create, list_subjects
from zeitgeist.host.service import Service

pytestmark = pytest.mark.requirement("W4")
BY_NAME = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])


def test_the_bank_is_as_large_as_owed() -> None:
    """Issue §5: at least 16 in the groups KV, rope and identity; each group has some, each name is its own."""
    count = {group: sum(mutant.group == group for mutant in MUTANTS) for group in GROUPS}
    assert count["KV"] + count["rope"] + count["identity"] >= 16
    assert min(count.values()) >= 3
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == sum(count.values())
    assert len({(mutant.backend, mutant.service) for mutant in MUTANTS}) == len(MUTANTS), "two entries are one bug"


def test_most_bugs_were_seen_in_the_wild() -> None:
    """A motive is a link; more than half of the bank has one."""
    links = [mutant.motive for mutant in MUTANTS if mutant.motive]
    assert all(link.startswith("https://") for link in links)
    assert len(links) * 2 > len(MUTANTS)


@BY_NAME
def test_a_mutant_is_meant_for_families_with_checks_at_its_level(mutant: Mutant) -> None:
    """Its letters are families that an honest variant runs through as well, and each has checks."""
    known = {meta.family for meta in load_checks().values()}
    assert mutant.families
    assert set(mutant.families) <= known & set(FAMILIES) & set(HONEST_FAMILIES)
    assert 20 <= len(mutant.about) <= 120 and mutant.about[-1] != "."


@BY_NAME
def test_a_mutant_claims_what_the_reference_claims(mutant: Mutant) -> None:
    """Its backend can be made and describes itself like the honest one; its service is a subclass of Service."""
    assert create(mutant.backend, {}).describe() == ReferenceBackend().describe()
    if mutant.service:
        module, _, name = mutant.service.partition(":")
        service = getattr(importlib.import_module(module), name)
        assert issubclass(service, Service) and service is not Service
        assert mutant.backend == "reference"
    else:
        assert mutant.backend.startswith("certify.mutants.")


def test_honest_variants_can_be_named_and_are_not_mutants() -> None:
    """Issue §5 asks for six; each is a subject of the reference backend."""
    named = {subject.name for subject in list_subjects()}
    assert len({variant.backend for variant in HONEST}) == len(HONEST) >= 8
    assert {variant.backend for variant in HONEST} <= named
