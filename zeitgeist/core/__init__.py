"""The pure half: records, bytes and decisions.

Law: nothing below this package reads a clock, entropy, a file, a socket, a thread or an array. It imports the
standard library, msgspec, xxhash and blake3 only. import-linter and the tidy test hold it (DESIGN §1, §2).
"""
