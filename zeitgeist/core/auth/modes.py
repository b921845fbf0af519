"""Which modes a link allows, and which of two lists wins (H1).

Law: off loopback there is no mode without TLS, and no mode `none` at all. A mode that this node cannot carry out (no
key, no token, no verified certificate) is not offered: what is offered is what works.
"""

from zeitgeist.core.descriptors.link import Lane, LinkFacts
from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.descriptors.trust import AuthMode
from zeitgeist.core.errors import RemoteProtocolError, refuse

__all__ = ["choose", "modes_allowed", "require_tls"]


def require_tls(lane: Lane, facts: LinkFacts) -> None:
    """Refuse a link that leaves this host without TLS, whatever the mode (`zg/auth/tls-required`)."""
    if lane != "local" and not facts.loopback and facts.tls is None:
        raise refuse("zg/auth/tls-required", "tls", f"none on {facts.transport} {facts.address}", "TLS off loopback")


def modes_allowed(config: NodeConfig, lane: Lane, facts: LinkFacts) -> tuple[AuthMode, ...]:
    """The modes that this node can carry out on this link, in its order of preference.

    A local link has mode none alone: the kernel made both ends of its socket pair for us.
    """
    if lane == "local":
        return ("none",)
    bundle, auth = config.bundle is not None, config.auth
    able = {
        "mtls": bundle and facts.tls is not None and facts.tls.peer_subject != "",
        "ed25519": bundle and auth.key != "",
        "token": bool(auth.tokens),
        "none": facts.loopback,
    }
    return tuple(mode for mode in auth.modes if able[mode])


def choose(accepted: tuple[AuthMode, ...], offered: tuple[AuthMode, ...]) -> AuthMode:
    """The acceptor's first mode that the dialler offers too; `none` only when nothing else is common. Both sides can
    compute it again from the two lists, and do so in phase 2."""
    common: list[AuthMode] = [mode for mode in accepted if mode in offered]
    proven: list[AuthMode] = [mode for mode in common if mode != "none"]
    if not common:
        raise RemoteProtocolError(
            "zg/auth/no-common-mode",
            f"the dialler offers {', '.join(offered) or 'nothing'}; "
            f"the acceptor takes {', '.join(accepted) or 'nothing'} on this link",
            "modes",
        )
    return (proven or common)[0]
