"""Draws of a simulated world: each is keyed by what it is about, never by how many came before (DESIGN §8, V1).

Law: a draw depends on the seed, a concern, whom it concerns and the numbers it is asked with, and on nothing else. So
one fault taken out of a scenario leaves every other draw as it was, and a failure can be shrunk.
"""

import blake3

__all__ = ["Draws", "Entropy"]

WORDS = 64


class Draws:
    """Draws of one concern about one party, link or fault."""

    __slots__ = ("hasher",)

    def __init__(self, hasher: blake3.blake3) -> None:
        self.hasher = hasher

    def bits(self, number: int, again: int = 0) -> int:
        """64 bits of message number; again: how often it was asked before about the same message."""
        hasher = self.hasher.copy()
        hasher.update(number.to_bytes(8, "little") + again.to_bytes(8, "little"))
        return int.from_bytes(hasher.digest(8), "little")

    def named(self, name: str) -> int:
        """64 bits of whatever has this name."""
        hasher = self.hasher.copy()
        hasher.update(name.encode())
        return int.from_bytes(hasher.digest(8), "little")

    def below(self, bound: int, number: int, again: int = 0) -> int:
        """A number from 0 to bound - 1; 0 when bound is 0."""
        return self.bits(number, again) * bound >> WORDS

    def chance(self, parts_per_million: int, number: int, again: int = 0) -> bool:
        """True that often of a million."""
        return self.below(1_000_000, number, again) < parts_per_million

    def stretch(self, scale: int, number: int) -> int:
        """An integer that is long now and then: about scale × -log2 of a uniform draw, piecewise linear, mean near
        1.5 × scale, 64 × scale at most. No float: a logarithm differs between machines."""
        bits = self.bits(number)
        zeros = WORDS - bits.bit_length()
        fraction = (bits << (zeros + 1)) & ((1 << WORDS) - 1)
        return scale * zeros + (scale * ((1 << WORDS) - 1 - fraction) >> WORDS)


class Entropy:
    """The source of all draws of a run."""

    def __init__(self, seed: int) -> None:
        self.key = blake3.blake3(b"zg-sim seed\x00" + seed.to_bytes(16, "little", signed=True)).digest()

    def about(self, concern: str, whom: str = "") -> Draws:
        """The draws of a concern about whom."""
        hasher = blake3.blake3(key=self.key)
        for part in (concern, whom):
            raw = part.encode()
            hasher.update(len(raw).to_bytes(4, "little") + raw)
        return Draws(hasher)

    def secret(self, concern: str, whom: str = "") -> bytes:
        """32 bytes of a concern about whom."""
        return self.about(concern, whom).hasher.digest()
