"""The simulator: the same core, byte for byte, in a world that keeps time and makes trouble on purpose (DESIGN §8).

Law: nothing here decides for a node. Time is integer nanoseconds of a kernel, entropy is keyed by what it is about, and
no module imports a clock, a source of randomness, a socket or the host.
"""
