"""A decoder keeps to its bound whatever comes: 100,000 broken frames here, ten million in `make nightly` (C1, G4).

`ZG_FUZZ_FRAMES` says how many. The collector is off meanwhile: what a refused frame took is free at once, not when
Python gets round to it.
"""

import gc
import os
import tracemalloc
from collections import Counter

import pytest
from frame_damage import Damage, read

from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.limits import CHUNK_BYTES_MAX, FRAME_BYTES_MAX

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("G4")]

FRAMES = int(os.environ.get("ZG_FUZZ_FRAMES", "100000"))
SLACK = 64 << 10
IDS = {
    *("zg/version/mismatch", "zg/tensor/bad-chunk"),
    *(
        f"zg/wire/{name}"
        for name in (
            *("bad-magic", "bad-header", "bad-header-checksum", "unknown-channel", "unknown-flags"),
            *("frame-too-large", "truncated", "bad-payload-checksum", "bad-payload", "bad-record", "not-canonical"),
        )
    ),
}
"""All that a frame or its record can be refused for, and nothing else."""


def refusals(count: int, seed: int) -> tuple[Counter[str], int]:
    """(how often each id was given, the most bytes held at once) while count broken frames were read and refused. ""
    counts forged records that are, by chance, other sound records. Any other exception leaves."""
    damage, seen = Damage(seed), Counter(dict.fromkeys(IDS, 0))
    for sound in damage.small:
        read(memoryview(sound))  # what is learnt of a record's type, once and for all
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        while seen.total() - seen[""] < count:
            try:
                read(damage.next())
            except ZeitgeistError as error:
                assert error.field, f"{error} names no field"
                seen[error.id] += 1
            else:
                seen[""] += 1
        return seen, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.slow
def test_no_broken_frame_takes_more_than_one_frame_of_memory() -> None:
    """Peak ≤ frame_bytes_max + 64 KiB; each is refused by a name of the wire, and every name was given at least once,
    and the largest payload was really taken: else the bound would hold for a decoder that takes nothing."""
    seen, peak = refusals(FRAMES, seed=3)
    assert peak <= FRAME_BYTES_MAX + SLACK, f"{peak:,} bytes at once"
    assert peak > CHUNK_BYTES_MAX
    assert {id for id, count in seen.items() if count} - {""} == IDS
    assert seen[""] < FRAMES // 10
