"""Live sockets through the relay: what passed is a capture; through TLS it is one for who holds the keys (G4)."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_conversation import sent_frames

from zeitgeist.capture.dissect import Sighting, read_capture
from zeitgeist.capture.relay import Relay
from zeitgeist.capture.write import write_capture
from zeitgeist.core.wire.frame import Frame, FrameDecoder, encode_frame
from zeitgeist.host.keyring import load_keyring
from zeitgeist.host.keys import make_authority, make_certificate
from zeitgeist.transports.tls import client_context, server_context

pytestmark = pytest.mark.requirement("G4")

LUA = Path(__file__).resolve().parents[2] / "docs" / "spec" / "zeitgeist.lua"
FRAMES = [frame for _, frame in sent_frames()]
Wrap = Callable[[socket.socket], socket.socket]


def echo(listener: socket.socket, wrap: Wrap) -> None:
    """Takes one connection and says back every frame it hears."""
    plain, _ = listener.accept()
    with wrap(plain) as sock:
        for _ in FRAMES:
            sock.sendall(encode_frame(receive(sock)))


def receive(sock: socket.socket) -> Frame:
    """One frame, byte by exact byte."""
    decoder = FrameDecoder()
    while True:
        if frame := decoder.advance(sock.recv_into(decoder.target())):
            return frame


def talk(capture: Path, client: Wrap, server: Wrap) -> tuple[tuple[str, int], tuple[str, int]]:
    """Every golden frame there and back through a relay, written as a capture; the two ends as the capture has them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=echo, args=(listener, server), daemon=True)
        thread.start()
        with Relay(listener.getsockname()) as relay:
            plain = socket.create_connection(relay.address)
            ends = plain.getsockname(), listener.getsockname()
            with client(plain) as sock:
                for frame in FRAMES:
                    sock.sendall(encode_frame(frame))
                    assert receive(sock) == frame
            thread.join()
    write_capture(capture, relay.sent)
    return ends


def test_a_live_conversation_is_read_from_its_capture(tmp_path: Path) -> None:
    """Two sockets of this host, blocking: each frame stands in the capture twice, question before answer."""
    there, back = talk(tmp_path / "live.pcap", lambda sock: sock, lambda sock: sock)
    seen = [one for one in read_capture(tmp_path / "live.pcap") if isinstance(one, Sighting)]
    assert [bytes(one.frame) for one in seen] == [encode_frame(frame) for frame in FRAMES for _ in range(2)]
    ends = tuple(f"{host}:{port}" for host, port in (there, back))
    assert [one.ends for one in seen] == [ends, ends[::-1]] * len(FRAMES)
    assert all(one.header == one.payload == "ok" for one in seen)


def test_a_capture_of_tls_shows_frames_only_to_who_holds_its_keys(tmp_path: Path) -> None:
    """The product's own TLS 1.3 contexts; the client logs its keys, as any TLS library can. Without them no frame is
    seen, neither by us nor by tshark; with them tshark sees every frame of both directions."""
    make_authority(tmp_path / "ca", "test")
    make_certificate(tmp_path / "node", "node", ["127.0.0.1"], tmp_path / "ca")
    files = load_keyring(tmp_path / "node").tls
    assert files is not None
    client, server = client_context(files, pinned=False), server_context(files)
    client.keylog_filename = str(tmp_path / "keys.log")

    def dial(sock: socket.socket) -> ssl.SSLSocket:
        return client.wrap_socket(sock, server_hostname="127.0.0.1")

    talk(tmp_path / "tls.pcap", dial, lambda sock: server.wrap_socket(sock, server_side=True))
    assert not [one for one in read_capture(tmp_path / "tls.pcap") if isinstance(one, Sighting)]
    command = ["tshark", "-r", str(tmp_path / "tls.pcap"), "-X", f"lua_script:{LUA}", "-Y", "zeitgeist", "-T", "fields"]
    command += ["-e", "zeitgeist.header_check"]
    blind = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    keyed = [*command, "-o", f"tls.keylog_file:{tmp_path / 'keys.log'}"]
    shown = subprocess.run(keyed, capture_output=True, text=True, check=True).stdout.replace(",", "\n").split()
    assert blind.strip() == ""
    checks = [int.from_bytes(encode_frame(frame)[40:48], "little") for frame in FRAMES for _ in range(2)]
    assert [int(check, 16) for check in shown] == checks
