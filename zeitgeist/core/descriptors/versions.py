"""The six schema versions (A8). Exact match; a refusal names both."""

from zeitgeist.core.errors import RemoteProtocolError

__all__ = ["SCHEMA_VERSIONS", "require_version"]

SCHEMA_VERSIONS = {"protocol": 1, "model": 1, "tensor": 1, "cache": 1, "backend": 1, "kernel": 1}


def require_version(schema: str, theirs: int) -> None:
    """Refuse any version but ours, naming both (`zg/version/mismatch`)."""
    ours = SCHEMA_VERSIONS[schema]
    if theirs != ours:
        raise RemoteProtocolError("zg/version/mismatch", f"theirs is {theirs}, ours is {ours}", f"{schema}_version")
