"""Records as JSON lines, and the Merkle root over them that a certificate binds (W5).

Law: a leaf is BLAKE3(0 ‖ canonical bytes of the record), a node BLAKE3(1 ‖ left ‖ right), an odd last node moves up
unchanged; leaves stand in order of case id. So one record edited, removed, added or moved changes the root.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from certify.verdict import CaseRecord
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats import canonical

__all__ = ["from_json", "merkle_root", "read_records", "to_json", "write_records"]

ENCODER = msgspec.json.Encoder(order="sorted")


def to_json(record: CaseRecord) -> bytes:
    """One line, sorted keys."""
    return ENCODER.encode(record)


def from_json(line: bytes | str) -> CaseRecord:
    """Read one line; unknown fields are refused."""
    try:
        return msgspec.json.decode(line, type=CaseRecord)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RemoteProtocolError("zg/certify/tampered", f"a record cannot be read: {error}", "records") from error


def read_records(path: Path) -> list[CaseRecord]:
    """All records of a JSON-lines file, in order."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RemoteProtocolError("zg/certify/bad-certificate", f"{path}: {error.strerror}", "records") from error
    return [from_json(line) for line in lines if line.strip()]


def write_records(path: Path, records: Sequence[CaseRecord]) -> None:
    """Write the records, sorted by case id."""
    lines = [to_json(record) + b"\n" for record in sorted(records, key=lambda record: record.case)]
    path.write_bytes(b"".join(lines))


def merkle_root(records: Sequence[CaseRecord]) -> str:
    """`blake3:` root over the records sorted by case id; of no record: BLAKE3 of nothing."""
    ordered = sorted(records, key=lambda record: record.case)
    row = [blake3(b"\x00" + canonical.encode(record)).digest() for record in ordered]
    if not row:
        return "blake3:" + blake3(b"").hexdigest()
    while len(row) > 1:
        pairs = [blake3(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row) - 1, 2)]
        row = pairs + row[len(row) - len(row) % 2 :]
    return "blake3:" + row[0].hex()
