"""What a vendor adds to a record: kept and digested by everyone, refused where it is critical and unknown (A9).

Law: an extension is never dropped and never guessed. Its bounds are those of `limits.py`, met before anybody reads it.
"""

from collections.abc import Mapping, Sequence

from zeitgeist.core.descriptors.cache import Extension
from zeitgeist.core.errors import refuse
from zeitgeist.core.limits import EXTENSION_BYTES_MAX, EXTENSION_COUNT_MAX, NAME_BYTES_MAX

__all__ = ["check_extensions"]


def check_extensions(extensions: Mapping[str, Extension], known: Sequence[str]) -> None:
    """Refuse what breaks a bound (`zg/wire/bad-extension`) or is critical and not among known
    (`zg/wire/unknown-critical-extension`), naming the extension; the first by name, whatever order they came in."""
    if len(extensions) > EXTENSION_COUNT_MAX:
        raise refuse("zg/wire/bad-extension", "extensions", len(extensions), f"at most {EXTENSION_COUNT_MAX}")
    for name in sorted(extensions):
        extension, field = extensions[name], f"extensions.{name}"
        if not name or len(name.encode()) > NAME_BYTES_MAX or not name.isprintable():
            raise refuse("zg/wire/bad-extension", field, repr(name), f"a name of 1 to {NAME_BYTES_MAX} printable bytes")
        if len(extension.body) > EXTENSION_BYTES_MAX:
            raise refuse(
                "zg/wire/bad-extension", field, f"{len(extension.body)} bytes", f"at most {EXTENSION_BYTES_MAX}"
            )
        if extension.critical and name not in known:
            raise refuse(
                "zg/wire/unknown-critical-extension", field, "a critical extension", ", ".join(known) or "none known"
            )
