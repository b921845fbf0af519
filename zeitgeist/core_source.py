"""The digest of the core's sources: what a boot and a trace's header name as the core that made the steps (DESIGN §11).

Law: the same files give the same digest on every machine: paths with `/`, in order, each with its bytes. Drivers and
tools call this; the core itself never looks at a file.
"""

from functools import cache
from pathlib import Path

import zeitgeist.core
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest

__all__ = ["core_digest"]


@cache
def core_digest() -> Digest:
    """`blake3:` over every Python file below `zeitgeist/core`: length and bytes of its path, length and bytes of it."""
    parts: list[bytes] = []
    for folder in sorted(zeitgeist.core.__path__):
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*.py")}
        for name in sorted(files):
            for raw in (name.encode(), files[name].read_bytes()):
                parts += [len(raw).to_bytes(8, "little"), raw]
    return content_digest(*parts)
