"""Connections that carry frames: memory, TCP, Unix sockets, TLS. They know bytes, never what a frame means."""
