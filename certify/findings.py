"""What is known to be found in published engines: one name for one thing, here, in reports and in adapters' `handled`.

Law: a name says what is wrong, not whose it is, for a second engine may have it too. A check that reports a finding
has its name from here.
"""

from dataclasses import dataclass

from certify.verdict import FindingKind

__all__ = ["FINDINGS", "KnownFinding"]


@dataclass(frozen=True)
class KnownFinding:
    """checks: those that see it (none: only an adapter's own test does); about: what it is, in one line."""

    kind: FindingKind
    checks: tuple[str, ...]
    about: str


FINDINGS = {
    "f32-cache-read-as-f16": KnownFinding(
        "property", ("N.precision-as-declared",), "a float32 cache is attended to in float16"
    ),
    "hadamard-rotated-quantised-cache": KnownFinding(
        "trap", ("V.geometry",), "quantised K and V are stored rotated, and nothing says so"
    ),
    "head-tied-unless-told": KnownFinding(
        "defect", (), "a configuration without `tie_word_embeddings` loses its head; models of the checks always say it"
    ),
    "key-pairing-unsaid": KnownFinding(
        "trap", ("V.numbers-are-the-oracles", "V.geometry"), "rotary pairs of stored keys differ by architecture"
    ),
    "not-batch-invariant": KnownFinding(
        "property", ("D.batch-invariance", "D.ragged-batch"), "the batch changes bits of the logits"
    ),
    "not-chunk-invariant": KnownFinding("property", ("D.chunk-invariance",), "the chunk changes bits of the logits"),
    "not-order-independent": KnownFinding("property", ("D.batch-order",), "the order in a batch changes bits"),
    "not-run-to-run-equal": KnownFinding("property", ("D.run-to-run",), "the same call twice gives other bits"),
    "not-truncate-exact": KnownFinding("property", ("D.truncate-forgets",), "what was cut off changes bits"),
    "one-zeroed-head": KnownFinding("control", ("X.one-zeroed-head",), "one key of one head set to zero"),
    "pairs-misdeclared": KnownFinding("control", ("X.pairs-misdeclared",), "a cache that names the other pairing"),
    "rope-theta-ignored": KnownFinding(
        "defect", ("G.logits", "G.published-engine"), "the rotary base of the configuration is not read"
    ),
}
