"""Plans: a snapshot in, a decision out (K1)."""

__all__: list[str] = []
