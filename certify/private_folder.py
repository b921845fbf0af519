"""One temporary folder a command, in which everything that it starts keeps its own: checkers, their workers, engines.

Law: the process that made the folder removes it, whatever way those in it ended; what a killed maker left is removed
by the next one. So no process in it need live long enough to clean up after itself.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from zeitgeist.host.child import sweep

__all__ = ["PREFIX", "private_folder"]

PREFIX = "zg-certify-"


@contextmanager
def private_folder() -> Generator[Path]:
    """A new folder that is gone afterwards; its name has our process id, by which `sweep` knows whether we live."""
    sweep(Path(tempfile.gettempdir()), PREFIX)
    # A process that was killed a moment ago may still be writing into it: what is left then is swept the next time.
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
