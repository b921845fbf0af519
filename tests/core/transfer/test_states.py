"""The table of a transfer's moves is complete: each pair is a move or a refusal by state, event and who (E4)."""

import pytest

from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError
from zeitgeist.core.transfer.states import EVENTS, STATES, TRANSITIONS, is_final, next_state

pytestmark = pytest.mark.requirement("E4")

PAIRS = [(state, event) for state in STATES for event in EVENTS]
FINAL = {"done", "declined", "withdrawn", "received", "abandoned"}


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda word: word)
def test_a_state_and_an_event_make_a_move_or_a_refusal_that_names_them(state, event) -> None:
    """Both when the peer did it and when we did: the error says whose fault it is."""
    if (state, event) in TRANSITIONS:
        assert next_state(state, event, "transfer 7, peer n2", True) == TRANSITIONS[state, event]
        return
    for peer_did, kind in ((True, RemoteProtocolError), (False, LocalProtocolError)):
        with pytest.raises(kind) as caught:
            next_state(state, event, "transfer 7, peer n2", peer_did)
        assert caught.value.id == "zg/transfer/wrong-state"
        assert caught.value.detail == f"{event} is not allowed in {state} (transfer 7, peer n2)"


def test_the_table_speaks_of_known_words_only_and_leaves_final_states_alone() -> None:
    """Each state is a sentence, each event too; final states have no row, all others can be given up."""
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(STATES)
    assert {event for _, event in TRANSITIONS} == set(EVENTS)
    assert {state for state in STATES if is_final(state)} == FINAL
    for state in STATES:
        assert is_final(state) or (state, "give_up") in TRANSITIONS


def test_no_state_of_one_side_leads_to_the_other_side() -> None:
    """The sender's states come first in the list, the receiver's after."""
    names = list(STATES)
    sender = set(names[: names.index("waiting")])
    for (before, _), after in TRANSITIONS.items():
        assert (before in sender) == (after in sender)
