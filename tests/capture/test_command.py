"""`python -m zeitgeist.capture`: what a person reads, what a program reads, and never content (G4)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_conversation import SEGMENT_BYTES, conversation, sent_frames

from fixtures.golden_engines import CONTENT
from zeitgeist.capture.__main__ import main
from zeitgeist.capture.write import Sent, write_capture

pytestmark = pytest.mark.requirement("G4")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    write_capture(tmp_path / "talk.pcap", conversation(), SEGMENT_BYTES)
    return tmp_path / "talk.pcap"


def test_each_frame_is_one_line_with_its_ends_channel_kind_and_verdict(capture: Path) -> None:
    """As a command, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "zeitgeist.capture", str(capture)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(sent_frames()) + 1 and lines[-1].startswith(f"{len(sent_frames())} frames, 1 of")
    hello = next(line for line in lines if " Hello " in line and "bad-record" not in line)
    assert "10.0.0.1:40000 > 10.0.0.2:7420" in hello and "control" in hello and hello.endswith("ok")
    assert done.returncode == 1 and done.stderr == "", "a frame without a record is among them"


def test_json_has_every_field_of_the_record_and_none_of_the_content(
    capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts and tokens do not belong into a terminal: only their length is told."""
    main([str(capture), "--json"])
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in out.splitlines()]
    submit = next(row for row in rows if row["record"] == "Submit")
    assert submit["value"]["job"] == "job-1" and submit["content_length"] == 10
    assert CONTENT[10:20].hex() not in out and "\\u000a" not in out


def test_a_sound_capture_ends_with_zero_and_no_capture_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a script can ask."""
    write_capture(tmp_path / "good.pcap", conversation()[1:])
    assert main([str(tmp_path / "good.pcap")]) == 0
    web = Sent(time=1.0, ends=(("10.0.0.3", 5), ("10.0.0.4", 80)), data=b"GET / HTTP/1.1\r\n" * 9)
    write_capture(tmp_path / "web.pcap", [web])
    assert main([str(tmp_path / "web.pcap")]) == 1, "a capture without a frame shows nothing to be well"
    assert "no frames" in capsys.readouterr().err
    (tmp_path / "text.pcap").write_text("no capture")
    assert main([str(tmp_path / "text.pcap")]) == 2 and main([str(tmp_path / "none.pcap")]) == 2
    assert "none.pcap" in capsys.readouterr().err
