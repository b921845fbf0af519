"""Who brought the packages that are imported here (DESIGN §1): the tools refuse to run when it is another distribution.

`certify` is a common word. Two distributions in one environment overwrite each other's files without a word, and a
certificate of mixed sources would mean nothing. Reads installed metadata as text: importlib's own
`packages_distributions` answers the same in five times the time, which `verify` has not.
"""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

from zeitgeist.core.errors import ZeitgeistError

__all__ = ["NAMES", "check_ownership", "other_owners"]

OURS = "zeitgeist"
NAMES = ("certify", "zeitgeist")
FILES = re.compile(rf"^(?:{'|'.join(NAMES)})(?:/|\.py,)", re.MULTILINE)


def other_owners(installed: Iterable[Distribution]) -> list[tuple[str, str]]:
    """Sorted (name, version) of distributions other than ours that install a package of our names."""
    return sorted({(found.name, found.version) for found in installed if owns(found) and not is_ours(found.name)})


def owns(found: Distribution) -> bool:
    """Its list of files (RECORD; egg-info has none) or its declared top-level names say so."""
    if FILES.search(found.read_text("RECORD") or ""):
        return True
    return not set(NAMES).isdisjoint((found.read_text("top_level.txt") or "").split())


def is_ours(name: str | None) -> bool:
    """Names are compared as pip compares them."""
    return re.sub(r"[-_.]+", "-", name or "").lower() == OURS


def check_ownership() -> None:
    """Errors: `zg/certify/foreign-package`, which names the distributions to uninstall."""
    found = other_owners(distributions())
    if found:
        named = ", ".join(f"{name} {version}" for name, version in found)
        raise ZeitgeistError(
            "zg/certify/foreign-package",
            f"{named} installs a package that is called {' or '.join(NAMES)} too: pip uninstall "
            f"{' '.join(name for name, _ in found)}, then install zeitgeist again",
            "environment",
        )
