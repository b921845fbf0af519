"""Zeitgeist: different LLM engines work as one. The public promise is what `__all__` names."""

__all__ = ["__version__"]

__version__ = "0.1.0"
