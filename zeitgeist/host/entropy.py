"""The one place of a node that draws from the operating system: a seed at boot; the core derives the rest."""

import os

__all__ = ["SEED_BYTES", "boot_seed"]

SEED_BYTES = 32


def boot_seed() -> bytes:
    """32 bytes that nobody can guess."""
    return os.urandom(SEED_BYTES)
