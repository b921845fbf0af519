"""Who may send what, and what goes on in a drain (E4, H2)."""

import pytest
from transfer_pump import peer_up
from transfer_stand import Stand, chunks, ends, offer, refusals, said

from fixtures.golden_parties import NODE_B
from zeitgeist.core.facts import BulkUp, Draining
from zeitgeist.core.ids import LinkId, NodeId
from zeitgeist.core.wire import messages as m

pytestmark = [pytest.mark.requirement(name) for name in ("C1", "E4", "G4")]


@pytest.mark.parametrize(
    ("channel", "trust", "may"),
    [
        ("tensor", ("trusted_tensor_peer",), True),
        ("cache", ("trusted_cache_peer",), True),
        ("tensor", ("trusted_executor",), True),
        ("cache", ("trusted_executor",), True),
        ("tensor", ("trusted_cache_peer",), False),
        ("cache", ("trusted_tensor_peer",), False),
        ("cache", ("api_only_peer", "untrusted_client"), False),
    ],
)
@pytest.mark.requirement("H2")
def test_each_channel_needs_its_role_both_ways(channel, trust, may) -> None:
    """A cache goes to and comes from a cache peer only, a tensor a tensor peer; an executor is both."""
    stand = Stand(trust=trust)
    effects = stand.send(channel=channel)
    assert ends(effects) == ([] if may else ["zg/transfer/not-trusted"]) and bool(effects.send) == may
    effects = stand.hear(offer(2, channel=channel))
    (answer,) = said(effects)
    assert isinstance(answer, m.Accept if may else m.Declined)
    assert refusals(effects) == ([] if may else ["zg/transfer/not-trusted"])


@pytest.mark.requirement("H2")
def test_a_command_given_before_the_session_is_held_to_the_role_once_it_is_there() -> None:
    """Queued without a session, refused when the peer turns out not to be trusted."""
    stand = Stand()
    stand.send(peer="c")
    stand.fact(peer_up(5, NodeId("c"), True, ("trusted_cache_peer",)))
    effects = stand.fact(BulkUp(link=LinkId(6), control=LinkId(5), peer=NodeId("c")))
    assert ends(effects) == ["zg/transfer/not-trusted"] and not effects.send


def test_in_a_drain_nothing_new_starts_and_what_runs_goes_on() -> None:
    """Ours: offers are declined, commands refused, the queue ended. The peer's: nothing is offered to it."""
    stand = Stand()
    stand.send()
    stand.hear(m.Accept(transfer=1, credit=1))
    stand.send(peer="c")
    assert ends(stand.fact(Draining(peer=NodeId(""), reason="stop"))) == ["zg/transfer/draining"]
    assert ends(stand.send(tensor="u")) == ["zg/transfer/draining"]
    assert refusals(stand.hear(offer(2))) == ["zg/transfer/draining"]
    assert chunks(stand.hear(m.Credit(transfer=1, count=1))) == [1]
    other = Stand()
    other.fact(Draining(peer=NODE_B, reason="stop"))
    assert other.send().send == ()
