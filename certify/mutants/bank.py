"""The bank: planted bugs, each with the families meant to see it and the public bug it stands for (W4).

Mutants run on the trained tiny model beside an honest reference as peer. Honest variants must never be flagged.
"""

from certify.mutants.cache_bugs import CACHE_BUGS
from certify.mutants.compute_bugs import COMPUTE_BUGS
from certify.mutants.mutant import GROUPS, Honest, Mutant
from certify.mutants.serving_bugs import SERVING_BUGS

__all__ = ["GROUPS", "HONEST", "MUTANTS", "Honest", "Mutant"]

MUTANTS: tuple[Mutant, ...] = (*CACHE_BUGS, *COMPUTE_BUGS, *SERVING_BUGS)
"""Every one is caught by a family meant for it; `zg-certify selftest` proves it."""

HONEST: tuple[Honest, ...] = (
    Honest("as-it-is", "matrix-vector products, float32", "reference"),
    Honest("pairwise", "products summed pairwise, no fused multiply-add", "reference:pairwise"),
    Honest("blocked", "matrix-matrix products, not invariant, and it says so", "reference:blocked"),
    Honest("split-k", "products summed in four parts", "reference:split-k"),
    Honest("float64-accumulate", "products summed in float64", "reference:float64-accumulate"),
    Honest("online-softmax-16", "attention over blocks of 16 keys", "reference:online-softmax-16"),
    Honest("online-softmax-64", "attention over blocks of 64 keys", "reference:online-softmax-64"),
    Honest("chunk-16", "prefill in chunks of 16", "reference:chunk-16"),
    Honest("chunk-256", "prefill in chunks of 256", "reference:chunk-256"),
    Honest("kv-f16", "a float16 cache that is declared, in its band", "reference:kv-f16"),
)
"""None may have a FAIL, CRASH, SKIPPED or INCONCLUSIVE case, whatever the seed.

torch, mlx and llama_cpp are honest too; they are certified as subjects.
"""
