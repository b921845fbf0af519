"""Adapters: one file an engine. The heavy library is imported inside the factory, when chosen."""
