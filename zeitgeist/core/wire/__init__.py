"""Frames and chunks: bytes in, records and views out. Pure machines; sockets live in the host."""
