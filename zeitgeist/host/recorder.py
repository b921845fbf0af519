"""The recording of a node as files: zstd blocks, 0600, rotated (V2, DESIGN §2).

Law: what is written can be replayed, part by part; a crash of the host loses one second at most, whole blocks before it
are sound. Content is not in it unless a person asked, and then the first line of the log says so. Format:
`core/recording.py`; the same as the simulator writes.
"""

import os
from pathlib import Path
from typing import BinaryIO

import zstandard

from zeitgeist.core.effects import Effects, Input
from zeitgeist.core.recording import BlockWriter, Content, Header, Recorder, Subject
from zeitgeist.core.units import Instant
from zeitgeist.core_source import core_digest

__all__ = ["PART_BYTES", "RecordingFile"]

PART_BYTES = 256 << 20
"""256 MiB a part: about a million steps."""
LEVEL = 1


class RecordingFile:
    """path: of the first part; later ones are `path.1`, `path.2` … kind: `node` or `worker`."""

    def __init__(self, path: Path, subject: Subject, node: str, *, content: bool = False) -> None:
        self.path, self.written = path, 0
        self.header = Header(core=core_digest(), node=node, kind="node", content=content)
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.recorder = Recorder(subject, BlockWriter(self.header, self.compressor.compress))
        self.file = self.opened(path)

    def opened(self, path: Path) -> BinaryIO:
        """A new part. A file that is there is replaced only when it is ours to write, and is then ours alone."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.fchmod(fd, 0o600)
        file = os.fdopen(fd, "wb")
        file.write(self.recorder.writer.start())
        self.written = 0
        return file

    def note(self, now: Instant, input: Input, effects: Effects) -> None:
        """One step."""
        self.write(self.recorder.note(now, input, effects))
        if self.written > PART_BYTES:
            self.rotate()

    def content(self, content: Content) -> None:
        """Bytes behind a handle, when the header says that they are recorded."""
        if self.header.content:
            self.write(self.recorder.writer.add(content))

    def crashed(self, now: Instant, input: Input, error: Exception) -> None:
        """The step raised."""
        self.write(self.recorder.crashed(now, input, error))
        self.file.flush()

    def flush(self) -> None:
        """What is pending goes to the operating system."""
        self.write(self.recorder.writer.flush())
        self.file.flush()

    def close(self) -> None:
        """The last item, and the file is whole."""
        if not self.file.closed:
            self.write(self.recorder.writer.end(self.recorder.trace))
            self.file.close()

    def rotate(self) -> None:
        """End this part, begin the next."""
        self.close()
        writer, part = self.recorder.writer, self.recorder.writer.header.part + 1
        header = Header(
            core=self.header.core,
            node=self.header.node,
            kind=self.header.kind,
            content=self.header.content,
            part=part,
            previous=writer.chain,
            step=self.recorder.trace.steps,
        )
        self.recorder.writer = BlockWriter(header, self.compressor.compress)
        self.file = self.opened(self.path.with_name(f"{self.path.name}.{part}"))

    def write(self, block: bytes | None) -> None:
        if block:
            self.written += len(block)
            self.file.write(block)
