"""The executor of jobs beside an engine (E4)."""

__all__: list[str] = []
