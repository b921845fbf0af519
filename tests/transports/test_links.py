"""Links of every kind carry the same frames and end in the same way (G1, G4)."""

import asyncio
import gc
import os
import socket
from pathlib import Path

import pytest
from link_pairs import KINDS, WAIT_S, Ear, pair, put, tls_files

from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.limits import CHUNK_BYTES_MAX
from zeitgeist.core.wire.frame import Channel, Frame, encode_frame, frame_header
from zeitgeist.host.dialer import Dialer
from zeitgeist.transports.base import STRANGER_BYTES_MAX, Link, is_loopback, parse_address
from zeitgeist.transports.stream import PARTS_WAITING_MAX, TURN_BYTES, UNREAD, StreamLink
from zeitgeist.transports.tls import client_context, fingerprint, own_fingerprint

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.requirement("G1")
def test_frames_of_all_sizes_arrive_whole_and_in_order(kind: str, tmp_path: Path) -> None:
    """300 frames both ways, from no payload to the largest chunk, against what was sent (transports.md G1)."""

    async def main() -> None:
        async with pair(kind, tmp_path) as (ours, theirs):
            sizes = [*range(290), 4096, 65_535, 65_536, 65_537, 250_000, 1 << 20, CHUNK_BYTES_MAX]
            sent = [os.urandom(size) for size in sizes]
            ears = Ear(ours), Ear(theirs)
            for link in (ours, theirs):
                link.trust()
                for number, payload in enumerate(sent):
                    channel = Channel.TENSOR if len(payload) > 1 << 20 else Channel.CONTROL
                    put(link, number, payload, channel)
            for ear in ears:
                await ear.until_frames(len(sizes))
                assert [bytes(frame.payload) for frame in ear.frames] == sent
                assert [frame.sequence for frame in ear.frames] == list(range(len(sizes)))
            assert ours.waiting() == theirs.waiting() == 0

    asyncio.run(main())


@every_kind
def test_what_was_sent_before_a_close_arrives_before_the_end(kind: str, tmp_path: Path) -> None:
    """The other end sends without pause, so that a careless close would reset the connection and lose our last word."""

    async def main() -> None:
        async with pair(kind, tmp_path) as (ours, theirs):
            ear, other = Ear(ours), Ear(theirs)
            for number in range(20):
                put(ours, number, bytes(100_000))
            for number in range(200):
                put(theirs, number, bytes(1000))
            ours.close()
            put(ours, 20, b"too late")
            await other.until_frames(20)
            await other.until_down()
            assert len(other.frames) == 20
            await ear.until_down()

    asyncio.run(main())


@every_kind
def test_bytes_that_are_no_frames_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    """An HTTP request, then a frame whose payload was changed; the link still carries our answer (B3)."""

    async def main() -> None:
        damaged = bytearray(encode_frame(Frame(channel=Channel.CONTROL, kind=1, payload=b"hello")))
        damaged[-1] ^= 1
        for raw, id in ((b"GET / HTTP/1.1\r\n" * 9, "zg/wire/bad-magic"), (damaged, "zg/wire/bad-payload-checksum")):
            folder = tmp_path / id.replace("/", "-")
            folder.mkdir()
            async with pair(kind, folder) as (ours, theirs):
                ear, other = Ear(ours), Ear(theirs)
                ours.send([bytes(raw)])
                assert (await other.until_refused()).id == id
                put(theirs, 0, b"refused, because")
                theirs.close()
                await ear.until_frames(1)
                await ear.until_down()

    asyncio.run(main())


@every_kind
def test_a_stranger_gets_little_memory_and_a_friend_what_the_channel_allows(kind: str, tmp_path: Path) -> None:
    """A header that announces 4 MiB is refused before the payload is taken; after `trust` the same frame is heard."""

    async def main() -> None:
        payload = bytes(STRANGER_BYTES_MAX + 1)
        for trusted in (False, True):
            folder = tmp_path / str(trusted)
            folder.mkdir()
            async with pair(kind, folder) as (ours, theirs):
                other = Ear(theirs)
                if trusted:
                    theirs.trust()
                header = frame_header(Frame(channel=Channel.TENSOR, kind=1, payload=payload))
                ours.send([header])
                if trusted:
                    ours.send([payload])
                    await other.until_frames(1)
                else:
                    assert (await other.until_refused()).id == "zg/transport/too-early"

    asyncio.run(main())


@every_kind
def test_an_end_inside_a_frame_is_named(kind: str, tmp_path: Path) -> None:
    """Half a header, then the end: the reason says what was cut (A10)."""
    if kind == "memory":
        return  # a memory link has no halves: its sender's frames are whole

    async def main() -> None:
        async with pair(kind, tmp_path) as (ours, theirs):
            Ear(ours)
            other = Ear(theirs)
            ours.send([bytes(20)])
            ours.close()
            assert "zg/wire/truncated" in await other.until_down()

    asyncio.run(main())


def test_facts_say_who_stands_at_the_other_end(tmp_path: Path) -> None:
    """Loopback, the kernel's word on the user, and both sides' sight of the server's certificate (H1)."""

    async def main() -> None:
        for kind in KINDS:
            (tmp_path / kind).mkdir()
            async with pair(kind, tmp_path / kind) as (ours, theirs):
                assert (ours.facts.inbound, theirs.facts.inbound) == (False, True)
                assert ours.facts.loopback and theirs.facts.loopback
                if kind == "unix":
                    assert ours.facts.peer_uid == theirs.facts.peer_uid == os.geteuid()
                if kind == "tls":
                    client, server = ours.facts.tls, theirs.facts.tls
                    assert client is not None and server is not None
                    assert client.version == server.version == "TLSv1.3"
                    assert client.server_certificate == server.server_certificate != ""
                    assert client.peer_subject == server.peer_subject == "node"
                    assert server.peer_certificate == client.server_certificate

    asyncio.run(main())


def test_a_pinned_certificate_is_the_only_one_that_is_believed(tmp_path: Path) -> None:
    """The right fingerprint connects; another one, or none and no CA, is refused before a byte of ours is sent."""

    async def main() -> None:
        files = tls_files(tmp_path)
        dialer = Dialer(files)
        accepted: asyncio.Queue[object] = asyncio.Queue()
        listening = await dialer.listen("tcp:127.0.0.1:0", accepted.put_nowait)
        (await dialer.dial(listening.address, own_fingerprint(files))).abort()
        for pin, stranger, id in (
            (fingerprint(b"another"), dialer, "zg/transport/certificate"),
            (fingerprint(b"another"), Dialer(None), "zg/transport/certificate"),
        ):
            with pytest.raises(ZeitgeistError) as refusal:
                await stranger.dial(listening.address, pin)
            assert refusal.value.id == id
        (tmp_path / "other").mkdir()
        foreign = tls_files(tmp_path / "other")
        with pytest.raises(ZeitgeistError) as refusal:
            await Dialer(foreign).dial(listening.address, "")
        assert refusal.value.id == "zg/transport/tls"
        await listening.close()

    asyncio.run(main())


def test_one_turn_of_the_loop_reads_no_more_than_a_turn_of_one_tls_link(tmp_path: Path) -> None:
    """A thread floods a link with 48 MiB. Whatever waits, between two looks of the loop at its sockets no more than one
    turn's worth is heard (transports.md G1, 9): turns that ask for turns of their own would soon be ten at once."""

    async def main() -> None:
        files = tls_files(tmp_path)
        accepted: asyncio.Queue[Link] = asyncio.Queue()
        listening = await Dialer(files).listen("tcp:127.0.0.1:0", accepted.put_nowait)
        port = int(listening.address.rsplit(":", 1)[1])
        frame = encode_frame(Frame(channel=Channel.CONTROL, kind=1, payload=bytes(8000)))
        count = (48 << 20) // len(frame)

        def flood() -> None:
            plain = socket.create_connection(("127.0.0.1", port))
            with client_context(files, True).wrap_socket(plain) as sock:
                for _ in range(count):
                    sock.sendall(frame)

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        ear = Ear(await accepted.get())
        most = before = 0
        async with asyncio.timeout(WAIT_S):
            while len(ear.frames) < count:
                await asyncio.sleep(0)
                most = max(most, len(ear.frames) - before)
                before = len(ear.frames)
        assert 0 < most * len(frame) <= TURN_BYTES + len(frame)
        ear.link.close()
        await flooding
        await listening.close()

    asyncio.run(main())


def test_other_hosts_are_neither_called_nor_served_in_the_clear() -> None:
    """Wildcards, documentation addresses of both families; the error is raised before a socket is bound (H1)."""

    async def main() -> None:
        dialer = Dialer(None)
        for host in ("0.0.0.0", "[::]", "192.0.2.1"):
            with pytest.raises(ZeitgeistError) as refusal:
                await dialer.listen(f"tcp:{host}:0", lambda link: None)
            assert refusal.value.id == "zg/transport/needs-tls"
        with pytest.raises(ZeitgeistError) as refusal:
            await dialer.dial("tcp:192.0.2.1:7700", "")
        assert refusal.value.id == "zg/transport/needs-tls"

    asyncio.run(main())
    assert is_loopback("127.3.2.1") and is_loopback("::1") and is_loopback("::ffff:127.0.0.1")
    assert not any(is_loopback(host) for host in ("10.0.0.1", "::", "localhost", "::ffff:10.0.0.1", "fe80::1%eth0"))


@pytest.mark.parametrize("text", ["", "tcp:", "tcp:host", "tcp::1", "tcp:host:99999", "tcp:h:１", "unix:", "udp:h:1"])
def test_addresses_that_mean_nothing_are_refused(text: str) -> None:
    """Each is refused as `zg/transport/bad-address`; the good forms come back as they were."""
    with pytest.raises(ZeitgeistError) as refusal:
        parse_address(text)
    assert refusal.value.id == "zg/transport/bad-address"
    for good in ("tcp:localhost:1", "tcp:[::1]:65535", "unix:/a b", "memory:x"):
        assert str(parse_address(good)) == good


def test_a_socket_file_of_a_dead_node_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    """Bound and abandoned, then bound and answering; the file is ours alone (0600)."""

    async def main() -> None:
        path = tmp_path / "s"
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
        first = await Dialer().listen(f"unix:{path}", lambda link: link.abort())
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ZeitgeistError) as refusal:
            await Dialer().listen(f"unix:{path}", lambda link: None)
        assert refusal.value.id == "zg/transport/listen-failed"
        await first.close()
        assert not path.exists()

    asyncio.run(main())


def test_a_descriptor_travels_with_its_own_frame(tmp_path: Path) -> None:
    """A worker's socket pair: two frames with a file each between ones without; each gets its own (G1)."""

    class Keeper(Ear):
        def __init__(self, link: StreamLink) -> None:
            self.fds: list[int | None] = []
            super().__init__(link)

        def frame(self, link: object, frame: Frame, fd: int | None) -> None:
            self.fds.append(fd)
            super().frame(self.link, frame, fd)

    async def main() -> None:
        async with pair("unix", tmp_path) as (known, _):
            ends = [StreamLink(sock, known.facts, descriptors=True) for sock in socket.socketpair()]
            other = Keeper(ends[1])
            for number in range(6):
                fd = None
                if number in (1, 4):
                    (tmp_path / f"{number}").write_text(f"file {number}")
                    fd = os.open(tmp_path / f"{number}", os.O_RDONLY)
                payload = bytes(300_000)
                flags = 8 if fd is not None else 0
                frame = Frame(channel=Channel.CONTROL, kind=1, flags=flags, sequence=number, payload=payload)
                ends[0].send([frame_header(frame), payload], fd)
            await other.until_frames(6)
            assert [fd is not None for fd in other.fds] == [False, True, False, False, True, False]
            for number in (1, 4):
                fd = other.fds[number]
                assert fd is not None and os.read(fd, 99) == f"file {number}".encode()
                os.close(fd)
            for end in ends:
                end.abort()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
@pytest.mark.requirement("G4")
def test_who_asks_and_does_not_read_the_answers_is_left(kind: str, tmp_path: Path) -> None:
    """The other end never reads, and we are made to answer: after a bounded number of frames the link ends by name, and
    what waited is gone."""

    async def main() -> None:
        async with pair(kind, tmp_path) as (ours, _):
            ear = Ear(ours)
            for number in range(PARTS_WAITING_MAX + (1 << 16)):
                put(ours, number, b"pong")
            assert await ear.until_down() == UNREAD
            assert isinstance(ours, StreamLink) and not ours.queue

    asyncio.run(main())


def test_callers_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    """500 connections in the clear and 50 in TLS, closed at once or after garbage: no descriptor stays (H1)."""

    async def main() -> None:
        links: list[Ear] = []
        dialer = Dialer(tls_files(tmp_path))
        plain = await Dialer().listen("tcp:127.0.0.1:0", lambda link: links.append(Ear(link)))
        secure = await dialer.listen("tcp:127.0.0.1:0", lambda link: links.append(Ear(link)))
        before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
        for count, listening in ((500, plain), (50, secure)):
            host, port = listening.address.removeprefix("tcp:").rsplit(":", 1)
            for number in range(count):
                _, writer = await asyncio.open_connection(host, int(port))
                if number % 3:
                    writer.write(os.urandom(number))
                writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            while any(ear.reason is None and not ear.errors for ear in links) or secure.securing:
                await asyncio.sleep(0)
        for ear in links:
            ear.link.abort()
        await asyncio.sleep(0)
        gc.collect()
        if before is not None:
            assert len(list(Path("/proc/self/fd").iterdir())) <= before
        await plain.close()
        await secure.close()

    asyncio.run(main())
