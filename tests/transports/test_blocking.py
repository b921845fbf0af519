"""Frames over blocking sockets: the same bytes, by two system calls each (G1, E4)."""

import os
import socket
import threading

import pytest

from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.wire.frame import Channel, Frame, encode_frame
from zeitgeist.transports.blocking import BlockingLink


@pytest.mark.requirement("G1")
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_frames_in_parts_arrive_whole_while_both_sides_send(family: socket.AddressFamily) -> None:
    """200 frames of up to 4 MiB in four parts, sent by a thread through small socket buffers, so that a call takes
    only a part of them; compared with what was sent."""
    ours, theirs = connected(family)
    parts = [[os.urandom(size // 4)] * 4 for size in (*range(0, 190 * 40, 40), 100_000, 1 << 20, 4 << 20)]

    def send() -> None:
        link = BlockingLink(ours)
        for number, (first, *more) in enumerate(parts):
            link.send(Frame(channel=Channel.TENSOR, kind=47, sequence=number, payload=first), *more)
        ours.close()

    thread = threading.Thread(target=send)
    thread.start()
    link = BlockingLink(theirs)
    for number, sent in enumerate(parts):
        frame = link.receive()
        assert (frame.sequence, bytes(frame.payload)) == (number, b"".join(sent))
    with pytest.raises(EOFError):
        link.receive()
    thread.join()
    link.close()


def test_a_reader_that_copies_may_have_one_buffer_for_all_chunks() -> None:
    """With reuse the second payload stands where the first stood; without it each has memory of its own (base: G4)."""
    for reuse in (True, False):
        ours, theirs = socket.socketpair()
        link = BlockingLink(theirs, reuse=reuse)
        for letter in (b"a", b"b"):
            ours.sendall(encode_frame(Frame(channel=Channel.TENSOR, kind=47, payload=letter * 5000)))
            if letter == b"a":
                first = link.receive().payload
        link.receive()
        assert bytes(first[:1]) == (b"b" if reuse else b"a")
        ours.close()
        link.close()


def test_a_cut_frame_is_named_on_a_blocking_socket_too() -> None:
    """The other side ends after 60 bytes of a frame (`zg/wire/truncated`)."""
    ours, theirs = socket.socketpair()
    ours.sendall(encode_frame(Frame(channel=Channel.CONTROL, kind=1, payload=bytes(100)))[:60])
    ours.close()
    with pytest.raises(ZeitgeistError) as refusal:
        BlockingLink(theirs).receive()
    assert refusal.value.id == "zg/wire/truncated"
    theirs.close()


def test_what_is_read_ahead_is_neither_lost_nor_mixed() -> None:
    """Small and large frames in turns, written in pieces that respect nothing, with and without reuse: each payload is
    the one that was sent, also where a piece holds the end of one frame and the beginning of the next (base: G4)."""
    for reuse in (True, False):
        ours, theirs = connected(socket.AF_UNIX)
        sent = [os.urandom(size) for size in (0, 10, 70_000, 0, 65_487, 65_488, 65_489, 300_000, 5, 5, 200_000, 40_000)]
        frames = [Frame(channel=Channel.TENSOR, kind=47, payload=payload) for payload in sent]
        raw = memoryview(b"".join(encode_frame(frame) for frame in frames))

        def send(sock: socket.socket, raw: memoryview) -> None:
            at = 0
            for size in (1, 47, 60, *[9_973] * 100):
                sock.sendall(raw[at : at + size])
                at += size

        thread = threading.Thread(target=send, args=(ours, raw))
        thread.start()
        link = BlockingLink(theirs, reuse=reuse)
        assert [bytes(link.receive().payload) for _ in sent] == sent
        thread.join()
        ours.close()
        link.close()


def test_after_one_refusal_a_blocking_link_reads_nothing_more() -> None:
    """A changed byte, in a small and in a large payload, with a sound frame behind it: refused, and refused again."""
    for size in (100, 100_000):
        ours, theirs = connected(socket.AF_INET)
        damaged = bytearray(encode_frame(Frame(channel=Channel.TENSOR, kind=47, payload=bytes(size))))
        damaged[-1] ^= 1
        sound = encode_frame(Frame(channel=Channel.CONTROL, kind=1))
        thread = threading.Thread(target=ours.sendall, args=(bytes(damaged) + sound,))
        thread.start()
        link = BlockingLink(theirs)
        for _ in range(2):
            with pytest.raises(ZeitgeistError) as refusal:
                link.receive()
            assert refusal.value.id == "zg/wire/bad-payload-checksum"
        thread.join()
        ours.close()
        link.close()


def connected(family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
    """Two ends with the smallest buffers that the kernel gives."""
    if family == socket.AF_UNIX:
        pair = socket.socketpair()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        ours = socket.create_connection(listener.getsockname())
        pair = ours, listener.accept()[0]
        listener.close()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return pair
