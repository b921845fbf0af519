"""One test body, five arms: simulator and real sockets run the same core and give the same account (G1, H1, E4)."""

from pathlib import Path

import msgspec
import pytest
from arms import ARMS, Account, Play, play

from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.descriptors.trust import AuthMode, MemberKey
from zeitgeist.core.ids import KeyId

DIALLER = [
    ("greeting", "challenge", "proving"),
    ("proving", "welcome", "describing"),
    ("describing", "capabilities", "modelling"),
    ("modelling", "models", "assessing"),
    ("assessing", "assessment", "finalizing"),
    ("finalizing", "plan_agreed", "ready"),
]
ACCEPTOR = [
    ("greeting", "hello", "challenged"),
    ("challenged", "proof", "describing"),
    *DIALLER[2:5],
    ("finalizing", "plan_proposal", "ready"),
]
MODES: dict[AuthMode, tuple[str, ...]] = {
    "ed25519": ARMS,
    "token": ("simulated", "unix", "tls"),
    "mtls": ("simulated", "tls"),
    "none": ("memory", "unix", "tcp"),
}
"""Each mode where it may be used: mTLS needs TLS, none needs loopback, which simulated hosts do not have."""


@pytest.mark.requirement("G1")
@pytest.mark.requirement("H1")
@pytest.mark.requirement("E4")
@pytest.mark.engine("reference")
@pytest.mark.parametrize(("mode", "arm"), [(mode, arm) for mode, arms in MODES.items() for arm in arms])
def test_two_nodes_negotiate_stream_a_completion_and_move_a_tensor(mode: AuthMode, arm: str, tmp_path: Path) -> None:
    """Five phases in the same order; 24 tokens, equal to those of the engine called directly; 8 MiB in eight chunks,
    bit for bit, over the bulk connection. What the account says does not depend on the arm."""
    account = play(arm, Play(mode=mode), tmp_path)
    assert account.moves == {"a": DIALLER, "b": ACCEPTOR}
    assert [peer for peer, _ in account.joined["a"]] == ["b"]
    assert [peer for peer, _ in account.joined["b"]] == ["a"]
    assert account.refused == {"a": [], "b": []}
    assert (account.outcome, account.tokens, account.right) == ("length", 24, True)
    assert (account.sent, account.received) == (8, 8)


@pytest.mark.requirement("E4")
@pytest.mark.engine("reference")
@pytest.mark.parametrize("arm", ["simulated", "memory", "tcp"])
def test_a_tensor_of_no_bytes_is_whole_at_once(arm: str, tmp_path: Path) -> None:
    """No chunk will ever come: the driver says that the payload is whole when it is expected."""
    account = play(arm, Play(mode="ed25519", token_count=1, tensor=0), tmp_path)
    assert account.outcome == "length" and (account.sent, account.received) == (0, 0)
    assert account.moved


def other_token(config: NodeConfig) -> NodeConfig:
    """The operator pasted another cluster's token."""
    token = MemberKey(key=KeyId("blake3:" + "5a" * 32), from_utc_ns=0, until_utc_ns=1 << 62)
    return with_auth(config, tokens=(token,))


def other_cluster(config: NodeConfig) -> NodeConfig:
    return msgspec.structs.replace(config, cluster="elsewhere")


def expired_keys(config: NodeConfig) -> NodeConfig:
    """A bundle in which a's key ended in 1970. Both sides have it, as they would."""
    assert config.bundle is not None
    members = tuple(
        msgspec.structs.replace(
            member, keys=tuple(msgspec.structs.replace(key, from_utc_ns=0, until_utc_ns=1) for key in member.keys)
        )
        if member.node == "a"
        else member
        for member in config.bundle.members
    )
    return msgspec.structs.replace(config, bundle=msgspec.structs.replace(config.bundle, members=members))


def stale_bundle(config: NodeConfig) -> NodeConfig:
    """b missed the change that brought a."""
    assert config.bundle is not None
    members = tuple(member for member in config.bundle.members if member.node != "a")
    return msgspec.structs.replace(
        config, bundle=msgspec.structs.replace(config.bundle, members=members, bundle_version=0)
    )


def with_auth(config: NodeConfig, **changed: object) -> NodeConfig:
    return msgspec.structs.replace(config, auth=msgspec.structs.replace(config.auth, **changed))


REFUSALS: dict[str, tuple[Play, str, tuple[str, ...]]] = {
    "wrong token": (Play(mode="token", alter={"a": other_token}), "zg/auth/unknown-token", ("unix", "tls")),
    "expired key": (
        Play(mode="ed25519", alter={"a": expired_keys, "b": expired_keys}),
        "zg/auth/key-expired",
        ("memory", "tls"),
    ),
    "stale bundle": (Play(mode="ed25519", alter={"b": stale_bundle}), "zg/auth/stale-bundle", ("tls",)),
    "other cluster": (Play(mode="ed25519", alter={"a": other_cluster}), "zg/auth/wrong-cluster", ("tls",)),
}


@pytest.mark.requirement("H1")
@pytest.mark.requirement("H3")
@pytest.mark.parametrize("name", REFUSALS)
def test_who_is_wrong_is_refused_for_the_same_reason_on_every_arm(name: str, tmp_path: Path) -> None:
    """The first refusal that each node tells, against the one expected, and against the simulator's, word for word."""
    wrong, id, arms = REFUSALS[name]
    accounts: list[Account] = []
    for arm in ("simulated", *arms):
        (tmp_path / arm).mkdir()
        accounts.append(play(arm, wrong, tmp_path / arm))
        assert id in [id for _, ids in accounts[-1].refused["b"] for id in ids], arm
    assert all(account == accounts[0] for account in accounts)
