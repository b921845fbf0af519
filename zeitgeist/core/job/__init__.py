"""Jobs: who asked, who owns, who executes (E4)."""

__all__: list[str] = []
