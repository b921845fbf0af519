"""Drivers: what touches the world around an engine. Workers, their memory, their service."""

__all__: list[str] = []
