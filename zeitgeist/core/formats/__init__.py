"""Canonical bytes: element types, tensors, KV caches, quantisation, digests. No arrays here."""
