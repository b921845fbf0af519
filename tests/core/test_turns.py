"""Whose turn it is: arrivals by age, decode steps between them, neither starves (E4)."""

import pytest

from zeitgeist.core.turns import DECODE_STEPS_MAX, Turns

pytestmark = pytest.mark.requirement("E4")


def test_the_older_arrival_runs_first_whatever_it_is() -> None:
    """workers.md rule 2: calls and prompts in one order."""
    turns = Turns()
    assert turns.choose(closing=False, request=2, prompt=1, decode=False) == "prompt"
    assert turns.choose(closing=False, request=2, prompt=3, decode=False) == "request"


def test_an_arrival_waits_for_a_few_steps_at_most_and_a_step_for_one_arrival() -> None:
    """workers.md rule 3: with both waiting for ever, they alternate at a fixed rate."""
    turns = Turns()
    order = [turns.choose(closing=False, request=place, prompt=None, decode=True) for place in range(1, 13)]
    assert order[0] == "request", "who comes to an idle engine does not wait"
    assert order[1 : 2 + DECODE_STEPS_MAX] == ["decode"] * DECODE_STEPS_MAX + ["request"]
    assert order[1 + DECODE_STEPS_MAX :: DECODE_STEPS_MAX + 1] == ["request"] * 2


def test_steps_made_before_an_arrival_came_count_for_it() -> None:
    """A long stream is running: the next arrival is served at once, not after as many steps again."""
    turns = Turns()
    assert [turns.choose(closing=False, request=None, prompt=None, decode=True) for _ in range(9)] == ["decode"] * 9
    assert turns.choose(closing=False, request=None, prompt=1, decode=True) == "prompt"


def test_what_is_to_be_freed_goes_first_and_nothing_is_nothing() -> None:
    """workers.md rule 1."""
    turns = Turns()
    assert turns.choose(closing=True, request=1, prompt=1, decode=True) == "close"
    assert turns.choose(closing=False, request=None, prompt=None, decode=False) is None
