"""Any value of any record, made from its msgspec types and their bounds; nothing is written down twice."""

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

from zeitgeist.core.formats.canonical import Record

__all__ = ["records"]

INTEGER = (-(1 << 63), (1 << 64) - 1)
"""What MessagePack can say."""
TEXT = st.characters(codec="utf-8")


def records(kind: type[Record]) -> st.SearchStrategy[Any]:
    """Strategy of kind's values."""
    return of(inspect.type_info(kind))


def of(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Strategy of one type; a type that no record uses yet is an assertion, so that it is thought about."""
    match info:
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.IntType():
            return integers(info)
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.StrType(pattern=None):
            return st.text(TEXT, min_size=info.min_length or 0, max_size=near(info.min_length, info.max_length))
        case inspect.StrType():
            return st.from_regex(str(info.pattern), fullmatch=True).filter(
                lambda text: len(text) <= (info.max_length or len(text))
            )
        case inspect.BytesType():
            return st.binary(min_size=info.min_length or 0, max_size=near(info.min_length, info.max_length, 40))
        case inspect.CustomType():
            raise AssertionError(f"no strategy for {info}")
        case _:
            return compound(info)


def compound(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Strategy of a type that holds others."""
    match info:
        case inspect.StructType():
            return st.builds(info.cls, **{field.name: of(field.type) for field in info.fields})
        case inspect.UnionType():
            return st.one_of([of(one) for one in info.types])
        case inspect.VarTupleType():
            most = near(info.min_length, info.max_length, 2)
            return st.lists(of(info.item_type), min_size=info.min_length or 0, max_size=most).map(tuple)
        case inspect.TupleType():
            return st.tuples(*(of(one) for one in info.item_types))
        case inspect.DictType():
            return st.dictionaries(of(info.key_type), of(info.value_type), max_size=near(0, info.max_length, 3))
        case _:
            raise AssertionError(f"no strategy for {info}")


def integers(info: inspect.IntType) -> st.SearchStrategy[int]:
    """All that the bounds allow, the bounds themselves often."""
    low = info.ge if info.ge is not None else INTEGER[0]
    high = info.le if info.le is not None else INTEGER[1]
    assert info.gt is None and info.lt is None, "bounds of records are inclusive"
    return st.one_of(st.integers(low, high), st.sampled_from([low, high, max(low, min(high, 128))]))


def near(least: int | None, most: int | None, few: int = 8) -> int:
    """A size that keeps examples small: a few above the least, never above the most."""
    size = (least or 0) + few
    return size if most is None else min(size, most)
