"""The recording of a node as files: zstd blocks, 0600, rotated (V2, DESIGN §2).

Law: what is written can be replayed, part by part; a crash of the host loses one second at most, whole blocks before it
are sound. A disk that takes no more ends the recording, never the node: it is said once, in the log. Content is not in
it unless a person asked, and then the first line of the log says so. Format: `core/recording.py`; the same as the
simulator writes.
"""

import contextlib
import logging
import os
from io import FileIO
from pathlib import Path

import zstandard

from zeitgeist.core.effects import Effects, Input
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.recording import BlockWriter, Content, Header, Recorder, Subject
from zeitgeist.core.units import Instant
from zeitgeist.core_source import core_digest

__all__ = ["PART_BYTES", "RecordingFile"]

LOG = logging.getLogger("zeitgeist.host")
PART_BYTES = 256 << 20
"""256 MiB a part: about a million steps."""
LEVEL = 1


class RecordingFile:
    """path: of the first part; later ones are `path.1`, `path.2` … kind: `node` or `worker`."""

    def __init__(self, path: Path, subject: Subject, node: str, *, content: bool = False) -> None:
        self.path, self.written, self.failure = path, 0, ""
        self.header = Header(core=core_digest(), node=node, kind="node", content=content)
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.recorder = Recorder(subject, BlockWriter(self.header, self.compressor.compress))
        self.file = self.opened(path)

    def opened(self, path: Path) -> FileIO:
        """A new part. A file that is there is replaced only when it is ours to write, and is then ours alone."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self.file = FileIO(fd, "wb")
        os.fchmod(fd, 0o600)
        self.written = 0
        self.write(self.recorder.writer.start())
        return self.file

    def note(self, now: Instant, input: Input, effects: Effects) -> None:
        """One step."""
        if self.failure:
            return
        try:
            self.write(self.recorder.note(now, input, effects))
            if self.written > PART_BYTES:
                self.rotate()
        except (OSError, ZeitgeistError) as error:
            self.fail(error)

    def content(self, content: Content) -> None:
        """Bytes behind a handle, when the header says that they are recorded."""
        if self.header.content and not self.failure:
            try:
                self.write(self.recorder.writer.add(content))
            except (OSError, ZeitgeistError) as error:
                self.fail(error)

    def crashed(self, now: Instant, input: Input, error: Exception) -> None:
        """The step raised."""
        if self.failure:
            return
        try:
            self.write(self.recorder.crashed(now, input, error))
        except (OSError, ZeitgeistError) as failure:
            self.fail(failure)

    def flush(self) -> None:
        """What is pending goes to the operating system."""
        if self.failure:
            return
        try:
            self.write(self.recorder.writer.flush())
        except OSError as error:
            self.fail(error)

    def close(self) -> None:
        """The last item, and the file is whole."""
        if self.file.closed:
            return
        try:
            self.write(self.recorder.writer.end(self.recorder.trace))
            self.file.close()
        except OSError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """No more of it: what was written so far stays, and the node goes on."""
        self.failure = str(error)
        LOG.error("the recording %s ends at step %d: %s", self.path, self.recorder.trace.steps, error)
        with contextlib.suppress(OSError):
            self.file.close()

    def rotate(self) -> None:
        """End this part, begin the next."""
        self.close()
        if self.failure:
            return
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
        if not block:
            return
        self.written += len(block)
        view = memoryview(block)
        while view:
            view = view[self.file.write(view) :]
