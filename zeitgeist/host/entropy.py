"""The one place of a node that draws from the operating system: a seed at boot; the core derives the rest."""

import base64
import os

__all__ = ["SEED_BYTES", "boot_seed", "fresh_name"]

SEED_BYTES = 32


def boot_seed() -> bytes:
    """32 bytes that nobody can guess."""
    return os.urandom(SEED_BYTES)


def fresh_name() -> str:
    """A name for a job or a tensor that nobody else has: 26 characters of `a-z 2-7`."""
    return base64.b32encode(os.urandom(16)).decode().rstrip("=").lower()
