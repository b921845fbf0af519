"""The transcript: what a proof is about, and that nothing in it can be moved (H1)."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.pair import CERTIFICATE, Pair, Party, boot_of, config_of, decoded
from zeitgeist.core.auth.transcript import message, session_id
from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.wire.messages import Challenge, Hello

pytestmark = pytest.mark.requirement("H1")

SAID = st.tuples(
    st.sampled_from(["dialler", "acceptor"]),
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.sampled_from(["", CERTIFICATE]),
)


@given(SAID, SAID)
def test_two_different_handshakes_never_prove_the_same_bytes(a, b) -> None:
    """Role, hello, challenge and certificate each stand by themselves: no cut between them can be moved."""
    assert (message(*a) == message(*b)) == (a == b)


def test_both_sides_name_the_session_by_what_the_acceptor_proves() -> None:
    """The name is 32 hex digits of a digest over all but the role."""
    name = session_id(b"hello", b"challenge", CERTIFICATE)
    assert len(name) == 32 and int(name, 16) >= 0
    others = [session_id(b"hell", b"ochallenge", CERTIFICATE), session_id(b"hello", b"challenge", ""), name]
    assert all(a != b for a, b in combinations(others, 2))


def test_hello_and_challenge_hold_all_that_a_proof_must_be_bound_to() -> None:
    """Nonces, link id, epoch, counter, lane, session, names, modes, keys, versions and bundles are fields of the two
    records whose bytes are proven; both sides keep the bytes that really crossed."""
    bound = {"node", "cluster", "epoch", "versions", "nonce", "key", "token", "bundle_version", "bundle", "extensions"}
    assert bound | {"link", "lane", "session", "counter", "modes"} <= set(Hello.__struct_fields__)
    assert bound | {"mode"} <= set(Challenge.__struct_fields__)
    pair = Pair(Party(boot_of(config_of("a"))), Party(boot_of(config_of("b"))))
    here, there = pair.connect()
    crossed = [frame.record for _, frame in pair.carried[:2]]
    for party, link in ((pair.a, here), (pair.b, there)):
        assert [party.link(link).hello, party.link(link).challenge] == crossed


def test_no_two_links_say_the_same_hello_or_challenge() -> None:
    """Nonce and link id are drawn by link, so that a second connection is another transcript."""
    pair = Pair(Party(boot_of(config_of("a"))), Party(boot_of(config_of("b"))))
    for _ in range(3):
        pair.connect()
    hellos = [decoded(f) for _, f in pair.carried if isinstance(decoded(f), Hello)]
    challenges = [decoded(f) for _, f in pair.carried if isinstance(decoded(f), Challenge)]
    drawn = [h.nonce for h in hellos] + [h.link for h in hellos] + [c.nonce for c in challenges]
    assert len(hellos) == len(challenges) == 3 and len(set(drawn)) == 9
    assert all(encode(a) != encode(b) for a, b in combinations(hellos, 2))
