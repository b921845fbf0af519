"""What a node must remember over a crash: an append-only file of (key, value), and the epoch of its boots (DESIGN §2).

Record: body length u32, XXH3-64 of the body u64, little-endian, body: canonical `Durable`. One thread writes what waits
as one group and syncs once for all of it. Law: `Persisted` is said after the sync, never before. At boot the last value
of each key is read; a torn end, which no sync was answered for, is cut off; damage before sound records is refused, not
skipped. (SQLite takes this file's place with the cluster's log.)
"""

import fcntl
import os
import queue
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from zeitgeist.core.effects import Durable, Persist
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.canonical import decode, encode
from zeitgeist.core.ids import Ticket
from zeitgeist.host.private_files import private_folder, replace_private

__all__ = ["Journal", "read_journal"]

HEAD = struct.Struct("<IQ")
RECORD_BYTES_MAX = 16 << 20

Answer = Callable[[Sequence[Ticket], str], None]


class Journal:
    """The state folder of one node, locked. answer(tickets, error) is called in the writer's thread; "" is good."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.folder = private_folder(folder)
        self.answer = answer
        self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.lock)
            raise LocalProtocolError("zg/host/busy", "another process has it open", str(folder)) from error
        self.path = folder / "journal"
        values = read_journal(self.path)
        self.durable = tuple(Durable(key=key, value=value) for key, value in values.items())
        replace_private(self.path, b"".join(packed(record) for record in self.durable))
        self.epoch = self.next_epoch()
        self.file = self.path.open("ab", buffering=0)
        self.waiting: queue.SimpleQueue[Persist | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.write, name="zeitgeist-journal", daemon=True)
        self.thread.start()

    def next_epoch(self) -> int:
        """One more than at the last boot, on the disk before anybody hears of it."""
        path = self.folder / "epoch"
        try:
            epoch = int(path.read_text(encoding="ascii")) + 1 if path.exists() else 1
        except ValueError as error:
            raise ZeitgeistError("zg/host/damaged-journal", str(error), str(path)) from error
        replace_private(path, f"{epoch}\n".encode())
        return epoch

    def put(self, persist: Persist) -> None:
        """Queue one record. Never blocks."""
        self.waiting.put(persist)

    def close(self) -> None:
        """Write what waits, then let the folder go."""
        self.waiting.put(None)
        self.thread.join()
        self.file.close()
        os.close(self.lock)

    def write(self) -> None:
        """The thread: groups as they come."""
        error, ended = "", False
        while not ended:
            group, ended = self.group()
            tickets = [persist.ticket for persist in group if persist.sync]
            try:
                if error:  # after a failed sync the kernel may have dropped what it held: nothing later is safe either
                    raise OSError(error)
                view = memoryview(b"".join(packed(Durable(key=p.key, value=p.value)) for p in group))
                while view:
                    view = view[self.file.write(view) :]
                if tickets:
                    os.fdatasync(self.file.fileno()) if hasattr(os, "fdatasync") else os.fsync(self.file.fileno())
            except OSError as failure:
                error = str(failure)
            if tickets:
                self.answer(tickets, error)

    def group(self) -> tuple[list[Persist], bool]:
        """All that waits; blocks for the first."""
        group: list[Persist] = []
        taken = self.waiting.get()
        while taken is not None:
            group.append(taken)
            if self.waiting.empty():
                return group, False
            taken = self.waiting.get()
        return group, True


def packed(record: Durable) -> bytes:
    body = encode(record)
    return HEAD.pack(len(body), xxhash.xxh3_64_intdigest(body)) + body


def read_journal(path: Path) -> dict[str, bytes]:
    """The last value of each key, in the order of their last writing; empty when there is no file. A key whose last
    value is empty was let go: else each job that ever was would be told at every boot."""
    data = path.read_bytes() if path.exists() else b""
    values: dict[str, bytes] = {}
    at = 0
    while (record := record_at(data, at)) is not None:
        values.pop(record[0].key, None)
        if record[0].value:
            values[record[0].key] = record[0].value
        at = record[1]
    if any(record_at(data, later) is not None for later in range(at + 1, len(data) - HEAD.size)):
        raise ZeitgeistError("zg/host/damaged-journal", f"at byte {at}; sound records follow", str(path))
    return values


def record_at(data: bytes, at: int) -> tuple[Durable, int] | None:
    """The record that begins at `at`, and where it ends."""
    if len(data) - at < HEAD.size:
        return None
    length, check = HEAD.unpack_from(data, at)
    end = at + HEAD.size + length
    if not 0 < length <= RECORD_BYTES_MAX or end > len(data):
        return None
    body = data[at + HEAD.size : end]
    if xxhash.xxh3_64_intdigest(body) != check:
        return None
    return decode(body, Durable, RECORD_BYTES_MAX), end
