"""Files that only their owner may read: keys, tokens, journals, recordings (H1).

Law: a secret is created 0600 in a folder 0700, never over another file, and is whole on the disk before its name is
there. One that others can read, or whose folder others can change, is refused, not used with a warning: whoever could
read it may have it.
"""

import os
import stat
import tempfile
from pathlib import Path

from zeitgeist.core.errors import LocalProtocolError

__all__ = ["create_private", "private_folder", "replace_private", "require_private", "sync_folder"]


def private_folder(path: Path) -> Path:
    """The folder, made 0700 when it is not there. One that others may enter is refused (`zg/host/permissions`)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_private(path)
    return path


def require_private(path: Path) -> None:
    """Refuse a file or folder that is not ours alone (`zg/host/permissions`), naming its mode."""
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        wanted = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise LocalProtocolError(
            "zg/host/permissions",
            f"got mode {found.st_mode & 0o777:o} of user {found.st_uid}, wanted {wanted} of user {os.geteuid()}",
            str(path),
        )


def create_private(path: Path, data: bytes) -> None:
    """A new file. One that is there is left as it is (`zg/host/exists`)."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise LocalProtocolError("zg/host/exists", "the file is there already", str(path)) from error
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    sync_folder(path.parent)


def replace_private(path: Path, data: bytes) -> None:
    """The file has these bytes, or those it had: never half of either, also when the power fails."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """A new name in the folder survives a crash."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
