"""Opening a file that a stranger may have laid down: a regular file or nothing (R3).

Law: what is not a regular file after links are followed is never opened, since a FIFO would hold its reader for ever
and a device never ends; a name that the system cannot hold is an `OSError` like any other file that is not there.
"""

import errno
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_regular"]


def open_regular(path: Path) -> BinaryIO:
    """The file open for reading bytes. `OSError` for all that cannot be opened; the caller names its own error id."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return path.open("rb")
    except ValueError as error:
        raise OSError(errno.EINVAL, "no file can have this name") from error
