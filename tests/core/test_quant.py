"""Quantisation schemas: the layouts against ggml's own numbers and against the arithmetic that uses them (C4)."""

import gguf
import pytest

from zeitgeist.convert.quantise import BLOCKS
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.formats.dtype import dtype_named
from zeitgeist.core.formats.quant import SCHEMAS, schema_named

pytestmark = pytest.mark.requirement("C4")


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_ggml_schema_has_ggmls_sizes(name: str) -> None:
    """Against the gguf package and against convert/quantise.py, which holds the arithmetic."""
    schema = schema_named(name)
    kind = gguf.GGMLQuantizationType[name.removeprefix("ggml_").upper()]
    assert (schema.block_elements, schema.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert (schema.block_elements, schema.block_bytes) == (BLOCKS[name].elements, BLOCKS[name].bytes)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_fields_fill_a_block_without_overlap_or_gap(name: str) -> None:
    """Interleaved: offsets in order, the last ends the block. Planar: each part starts its own array."""
    schema = SCHEMAS[name]
    end = 0
    for field in schema.fields:
        assert field.offset == (end if schema.packing == "interleaved" else 0)
        assert field.length % dtype_named(field.dtype).width == 0
        end = field.offset + field.length
    codes = next(field for field in schema.fields if field.name == "codes")
    assert codes.length * 8 == schema.block_elements * schema.bits
    assert schema.block_bytes == (end if schema.packing == "interleaved" else codes.length)
    assert bool(schema.zero_dtypes) == (schema.zero_kind in ("minimum", "bias"))


def test_the_names_are_those_of_model_descriptors_and_others_are_refused() -> None:
    """`mlx_affine_<bits>_<group>` for each pair that MLX has kernels for here; nothing is guessed from a name."""
    assert {n for n in SCHEMAS if n.startswith("mlx")} == {f"mlx_affine_{b}_{g}" for b in (4, 8) for g in (32, 64, 128)}
    for name in ("mlx_affine_4_16", "ggml_q5_0", "", "Q8_0"):
        with pytest.raises(RemoteProtocolError, match=r"^weights: .*zg/format/unknown-schema"):
            schema_named(name, "weights")
