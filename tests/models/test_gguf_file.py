"""Damaged and hostile GGUF files: refused with file, field and place, and never anything but a ZeitgeistError."""

import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle
from zeitgeist.models.gguf_file import open_gguf
from zeitgeist.models.to_gguf import write_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small model's GGUF: metadata of every kind, quantised and plain tensors."""
    from certify.geometry import GEOMETRIES, write_geometry

    directory = tmp_path_factory.mktemp("small")
    return write_gguf(
        open_bundle(write_geometry(GEOMETRIES[3], 0, directory / "m")), directory / "m.gguf", "q4_1"
    ).read_bytes()


def text(value: str) -> bytes:
    """A GGUF string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, body: bytes) -> bytes:
    """A metadata entry."""
    return text(key) + struct.pack("<I", kind) + body


def tensor(name: str = "t", sizes: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    """A row of the tensor table."""
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def image(
    tensors: bytes = b"",
    tensor_count: int = 0,
    entries: bytes = b"",
    entry_count: int = 0,
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
) -> bytes:
    """A file put together by hand; data begins at a multiple of 32."""
    head = magic + struct.pack("<IQQ", version, tensor_count, entry_count) + entries + tensors
    return head + b"\0" * (-len(head) % 32) + data


BIG = 1 << 62
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "magic"),
    "magic": (image(magic=b"GGML"), "magic"),
    "version 2": (image(version=2), "version"),
    "big-endian": (image(version=3 << 24), "version"),
    "tensor count": (image(tensor_count=BIG), "tensor count"),
    "metadata count": (image(entry_count=BIG), "metadata count"),
    "key length": (image(entries=struct.pack("<Q", BIG) + b"x" * 32, entry_count=1), "metadata key 0"),
    "key too long": (image(entries=text("k" * 70_000) + b"\0" * 8, entry_count=1), "metadata key 0"),
    "key not utf-8": (image(entries=struct.pack("<Q", 2) + b"\xff\xfe" + b"\0" * 16, entry_count=1), "metadata key 0"),
    "key twice": (image(entries=entry("a", 4, b"\0" * 4) * 2, entry_count=2), "a"),
    "value type": (image(entries=entry("a", 77, b"\0" * 8), entry_count=1), "a"),
    "text length": (image(entries=entry("a", 8, struct.pack("<Q", BIG)), entry_count=1), "a"),
    "boolean 2": (image(entries=entry("a", 7, b"\2" + b"\0" * 8), entry_count=1), "a"),
    "array count": (image(entries=entry("a", 9, struct.pack("<IQ", 4, BIG)), entry_count=1), "a"),
    "array of texts count": (image(entries=entry("a", 9, struct.pack("<IQ", 8, BIG)), entry_count=1), "a"),
    "array of arrays": (image(entries=entry("a", 9, struct.pack("<IQ", 9, 1) + b"\0" * 32), entry_count=1), "a"),
    "alignment 0": (
        image(entries=entry("general.alignment", 4, struct.pack("<I", 0)), entry_count=1),
        "general.alignment",
    ),
    "alignment 33": (
        image(entries=entry("general.alignment", 4, struct.pack("<I", 33)), entry_count=1),
        "general.alignment",
    ),
    "alignment 2^31": (
        image(entries=entry("general.alignment", 4, struct.pack("<I", 1 << 31)), entry_count=1),
        "general.alignment",
    ),
    "tensor name too long": (image(tensor("n" * 65), 1, data=b"\0" * 32), "tensor name 0"),
    "no axes": (image(tensor(sizes=()), 1, data=b"\0" * 32), "t.axes"),
    "five axes": (image(tensor(sizes=(1, 1, 1, 1, 4)), 1, data=b"\0" * 32), "t.axes"),
    "size 0": (image(tensor(sizes=(0,)), 1, data=b"\0" * 32), "t.shape"),
    "size 2^62": (image(tensor(sizes=(BIG, 4)), 1, data=b"\0" * 32), "t.shape"),
    "sizes whose product overflows": (image(tensor(sizes=(1 << 32, 1 << 32, 1 << 32)), 1, data=b"\0" * 32), "t.shape"),
    "half a block": (image(tensor(sizes=(33,), kind=8), 1, data=b"\0" * 64), "t.shape"),
    "unknown type": (image(tensor(kind=12), 1, data=b"\0" * 32), "t.type"),
    "offset inside another": (image(tensor("a") + tensor("b", offset=0), 2, data=b"\0" * 64), "b.offset"),
    "offset beyond": (image(tensor("a") + tensor("b", offset=BIG), 2, data=b"\0" * 64), "b.offset"),
    "offset unaligned": (image(tensor("a") + tensor("b", offset=16), 2, data=b"\0" * 64), "b.offset"),
    "name twice": (image(tensor("a") + tensor("a", offset=32), 2, data=b"\0" * 64), "a"),
    "data cut": (image(tensor(sizes=(40,)), 1, data=b"\0" * 32), "t.shape"),
    "data cut by one": (
        image(
            entries=entry("pad", 8, text("p" * 200)),
            entry_count=1,
            tensors=tensor(sizes=(16,)),
            tensor_count=1,
            data=b"\0" * 63,
        ),
        "data",
    ),
    "trailing bytes": (image(tensor(), 1, data=b"\0" * 33), "data"),
}


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_with_its_field(tmp_path: Path, case: str) -> None:
    """Each field of the format with a value that cannot be; the message names file, field and byte."""
    data, field = HOSTILE[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    with pytest.raises(ZeitgeistError) as caught:
        open_gguf(path)
    assert caught.value.id == "zg/model/bad-gguf" and caught.value.field == f"hostile.gguf: {field}", str(caught.value)
    assert "at byte" in caught.value.detail


@pytest.mark.requirement("R3")
def test_the_hand_made_image_is_read_when_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    """The negative cases above differ from this file in one thing each, so they fail for their own reason."""
    path = tmp_path / "good.gguf"
    path.write_bytes(
        image(
            tensor("a") + tensor("b", sizes=(32, 2), kind=8, offset=32),
            2,
            entry("k", 8, text("v")),
            1,
            b"\0\0\x80\x3f" * 8 + b"\0" * 68,
        )
    )
    file = open_gguf(path)
    assert file.metadata == {"k": "v"}
    assert file.tensor("a")[1].tolist() == [1.0] * 4 and file.tensor("b")[0] == "ggml_q8_0"
    assert file.tensor("b")[1].shape == (2, 34)


@pytest.mark.requirement("R3")
def test_a_hostile_count_costs_no_memory(tmp_path: Path) -> None:
    """Counts of 2^62 in a file of 100 bytes: refused before anything of that size is asked for."""
    path = tmp_path / "hostile.gguf"
    tracemalloc.start()
    for case in ("tensor count", "metadata count", "text length", "array count", "array of texts count", "size 2^62"):
        path.write_bytes(HOSTILE[case][0])
        with pytest.raises(ZeitgeistError):
            open_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.requirement("R3")
def test_a_file_cut_anywhere_is_refused(small: bytes, tmp_path: Path) -> None:
    """Every length through the header's first kilobyte, then steps to the end: never accepted, always our error."""
    path = tmp_path / "cut.gguf"
    lengths = [*range(0, 1024, 7), *range(1024, len(small) - 1, 30_011), len(small) - 1]
    for length in lengths:
        path.write_bytes(small[:length])
        with pytest.raises(ZeitgeistError):
            open_bundle(path)


@pytest.mark.requirement("R3")
def test_a_flipped_bit_in_the_header_is_refused_or_gives_another_identity(small: bytes, tmp_path: Path) -> None:
    """200 single-bit flips over metadata and tensor table: no other error than ours, and never the old digests."""
    path = tmp_path / "flip.gguf"
    path.write_bytes(small)
    whole = open_bundle(path).descriptor()
    header = open_gguf(path).data_start
    chance, refused = random.Random(11), 0
    for _ in range(200):
        place = chance.randrange(header)
        damaged = bytearray(small)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            found = open_bundle(path).descriptor()
        except ZeitgeistError:
            refused += 1
        else:
            assert found.artifact != whole.artifact
    assert refused > 100


@pytest.mark.requirement("R3")
def test_a_missing_file_and_a_directory_of_that_name_give_our_errors(tmp_path: Path) -> None:
    """The operating system's refusal is ours with its reason."""
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ZeitgeistError) as caught:
            open_gguf(path)
        assert caught.value.id == "zg/model/unreadable"
