"""The journal gives back what it said was kept and nothing else, however its file ends (V2, recording.md)."""

import resource
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from zeitgeist.core.effects import Durable, Persist
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.ids import Ticket
from zeitgeist.host.journal import Journal, packed, read_journal

pytestmark = pytest.mark.requirement("V2")


class Answers:
    """What the writer's thread said."""

    def __init__(self) -> None:
        self.told: list[tuple[tuple[Ticket, ...], str]] = []
        self.event = threading.Event()

    def __call__(self, tickets: Sequence[Ticket], error: str) -> None:
        self.told.append((tuple(tickets), error))
        self.event.set()


def put(ticket: int, key: str, value: bytes, sync: bool = True) -> Persist:
    return Persist(ticket=Ticket(ticket), sync=sync, key=key, value=value)


def test_what_was_answered_for_is_there_after_the_next_boot(tmp_path: Path) -> None:
    """Four keys, one written twice, one let go by an empty value; each sync ticket is answered once; the epoch grows
    with each opening."""
    answers = Answers()
    journal = Journal(tmp_path / "state", answers)
    for number, (key, value) in enumerate([("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4"), ("c", b"")], 1):
        journal.put(put(number, key, value, sync=key != "b"))
    journal.close()
    assert sorted(t for tickets, _ in answers.told for t in tickets) == [1, 3, 4, 5]
    again = Journal(tmp_path / "state", answers)
    assert [(d.key, d.value) for d in again.durable] == [("b", b"2"), ("a", b"3")]
    assert (journal.epoch, again.epoch) == (1, 2)
    again.close()


def test_one_process_holds_a_state_folder(tmp_path: Path) -> None:
    """A second opening is refused (`zg/host/busy`) and disturbs nothing."""
    journal = Journal(tmp_path / "state", Answers())
    with pytest.raises(ZeitgeistError) as refusal:
        Journal(tmp_path / "state", Answers())
    assert refusal.value.id == "zg/host/busy"
    journal.close()


def test_every_cut_of_the_file_gives_a_prefix_of_its_records(tmp_path: Path) -> None:
    """Cut at each byte, and with each byte of the last record changed: the records before it, never more or others."""
    records = [packed(Durable(key=key, value=key.encode() * 5)) for key in "abc"]
    whole, path = b"".join(records), tmp_path / "journal"
    for at in range(len(whole) + 1):
        path.write_bytes(whole[:at])
        complete = sum(at >= sum(map(len, records[: i + 1])) for i in range(3))
        assert list(read_journal(path)) == list("abc"[:complete])
    for at in range(len(whole) - len(records[2]), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert list(read_journal(path)) == ["a", "b"]


def test_damage_before_sound_records_is_refused_and_not_skipped(tmp_path: Path) -> None:
    """A bit of the first of three (`zg/host/damaged-journal`): what follows was answered for."""
    path = tmp_path / "journal"
    whole = bytearray(b"".join(packed(Durable(key=key, value=b"value")) for key in "abc"))
    whole[14] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ZeitgeistError) as refusal:
        read_journal(path)
    assert refusal.value.id == "zg/host/damaged-journal"


def test_after_a_failed_sync_nothing_is_called_kept_again(tmp_path: Path) -> None:
    """The file cannot be written for one record: that one fails, and so does every one after it."""
    answers = Answers()
    journal = Journal(tmp_path / "state", answers)
    journal.file.close()
    journal.file = journal.path.open("rb", buffering=0)
    journal.put(put(1, "a", b"1"))
    assert answers.event.wait(20)
    journal.file = journal.path.open("ab", buffering=0)
    journal.put(put(2, "b", b"2"))
    journal.close()
    assert [bool(error) for _, error in answers.told] == [True, True]


def test_after_a_failed_write_nothing_later_is_answered_for(tmp_path: Path) -> None:
    """The file may not grow, as on a full disk; then it may again. The kernel may have dropped what it held between, so
    the later record fails too, and the file still opens with what was sound."""
    answers = Answers()
    journal = Journal(tmp_path / "state", answers)
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, most))
    try:
        journal.put(put(1, "a", b"1"))
        assert answers.event.wait(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    journal.put(put(2, "b", b"2"))
    journal.close()
    assert [tickets for tickets, _ in answers.told] == [(1,), (2,)] and all(error for _, error in answers.told)
    again = Journal(tmp_path / "state", Answers())
    assert again.durable == ()
    again.close()
