"""A vendor's additions: kept and digested, or refused by name (A9)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.golden_records import SAMPLES
from zeitgeist.core.descriptors.cache import Extension
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.canonical import decode, digest, encode
from zeitgeist.core.limits import EXTENSION_BYTES_MAX, EXTENSION_COUNT_MAX, NAME_BYTES_MAX
from zeitgeist.core.wire.extensions import check_extensions
from zeitgeist.core.wire.messages import Capabilities, Challenge, Hello

pytestmark = pytest.mark.requirement("A9")

PLAIN, CRITICAL = Extension(critical=False, body=b"x"), Extension(critical=True, body=b"x")
names = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)
extensions = st.dictionaries(
    names, st.builds(Extension, critical=st.booleans(), body=st.binary(max_size=9)), max_size=6
)


def refusal(carried: dict[str, Extension], known: tuple[str, ...] = ()) -> tuple[str, str]:
    with pytest.raises(RemoteProtocolError) as caught:
        check_extensions(carried, known)
    return caught.value.id, caught.value.field


@given(extensions, st.lists(names, max_size=4))
def test_only_critical_ones_that_are_unknown_are_refused_the_first_by_name(
    carried: dict[str, Extension], known: list[str]
) -> None:
    """Whatever order they came in, both sides name the same one."""
    strange = sorted(name for name, one in carried.items() if one.critical and name not in known)
    if not strange:
        check_extensions(carried, known)
        return
    backwards = dict(reversed(carried.items()))
    wanted = ("zg/wire/unknown-critical-extension", f"extensions.{strange[0]}")
    assert refusal(carried, tuple(known)) == refusal(backwards, tuple(known)) == wanted


def test_a_known_critical_extension_and_an_unknown_plain_one_pass() -> None:
    """Known is by exact name: no case folding, no prefix."""
    check_extensions({"acme": CRITICAL, "other": PLAIN}, ["acme"])
    for near in ("Acme", "acme.", "acm"):
        assert refusal({"acme": CRITICAL}, (near,))[0] == "zg/wire/unknown-critical-extension"


@pytest.mark.parametrize(
    ("carried", "field"),
    [
        ({f"e{i}": PLAIN for i in range(EXTENSION_COUNT_MAX + 1)}, "extensions"),
        ({"big": Extension(critical=False, body=bytes(EXTENSION_BYTES_MAX + 1))}, "extensions.big"),
        ({"": PLAIN}, "extensions."),
        ({"é" * (NAME_BYTES_MAX // 2) + "x": PLAIN}, "extensions." + "é" * (NAME_BYTES_MAX // 2) + "x"),
        ({"a\nb": PLAIN}, "extensions.a\nb"),
    ],
    ids=["count", "body", "no-name", "long-name", "line-end"],
)
def test_bounds_are_met_before_anybody_reads_an_extension(carried: dict[str, Extension], field: str) -> None:
    """Too many, too long, without a name; the largest that fit pass."""
    assert refusal(carried) == ("zg/wire/bad-extension", field)


def test_the_largest_extensions_that_are_allowed_pass() -> None:
    """As many as may be, each as long as may be, each name as long as may be."""
    name = "é" * (NAME_BYTES_MAX // 2 - 1)
    body = bytes(EXTENSION_BYTES_MAX)
    check_extensions({f"{name}{i:02}": Extension(critical=False, body=body) for i in range(EXTENSION_COUNT_MAX)}, ())


@pytest.mark.parametrize("kind", [Hello, Challenge, Capabilities])
def test_an_unknown_extension_is_kept_and_digested(kind: type[Hello] | type[Challenge] | type[Capabilities]) -> None:
    """It comes out as it went in, and another body gives another digest, so that a transcript covers it."""
    record = msgspec.structs.replace(SAMPLES[kind.__name__.lower()], extensions={"acme.note": PLAIN})
    back = decode(encode(record), kind)
    assert back.extensions == {"acme.note": PLAIN}
    assert digest(back) != digest(msgspec.structs.replace(record, extensions={"acme.note": CRITICAL}))
    assert digest(back) != digest(msgspec.structs.replace(record, extensions={}))
