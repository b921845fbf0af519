"""Writing GGUF and MLX forms: digests survive on every geometry; what cannot be said is refused."""

from pathlib import Path

import numpy as np
import pytest

from certify.geometry import GEOMETRIES, Geometry, write_geometry
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import ModelBundle, open_bundle
from zeitgeist.models.canonical_tensors import interleave_rows, split_rows
from zeitgeist.models.to_gguf import write_gguf
from zeitgeist.models.to_mlx import write_mlx


@pytest.mark.requirement("A3")
@pytest.mark.requirement("R3")
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry.name)
def test_every_geometry_keeps_its_digests_through_gguf_and_mlx(geometry: Geometry, tmp_path: Path) -> None:
    """Ties, biases, head norms, linear and llama3 scaling: the model digest, which covers them all, is equal."""
    parent = open_bundle(write_geometry(geometry, 3, tmp_path / "hf"))
    for child in (
        open_bundle(write_gguf(parent, tmp_path / "m.gguf")),
        open_bundle(write_mlx(parent, tmp_path / "mlx")),
    ):
        ours, theirs = parent.descriptor(), child.descriptor()
        assert (theirs.model, theirs.tokenizer, theirs.tied_head) == (ours.model, ours.tokenizer, ours.tied_head)
        assert np.array_equal(child.rope_factors(), parent.rope_factors())


@pytest.mark.requirement("R3")
def test_the_hugging_face_reader_of_gguf_finds_the_same_numbers(zg_tiny: ModelBundle, forms: dict[str, Path]) -> None:
    """The `gguf` package, which llama.cpp's authors keep, reads our file.

    Q and k rows are interleaved, others as they were.
    """
    import gguf

    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(forms["f32.gguf"]).tensors}
    assert np.array_equal(found["blk.2.attn_v.weight"], zg_tiny.tensor("layers.2.v"))
    wanted = zg_tiny.tensor("layers.2.k").reshape(2, 2, 16, 128).swapaxes(1, 2).reshape(64, 128)
    assert np.array_equal(found["blk.2.attn_k.weight"], wanted)
    assert not np.array_equal(found["blk.2.attn_k.weight"], zg_tiny.tensor("layers.2.k"))


@pytest.mark.requirement("C3")
def test_interleaving_rows_is_undone_by_splitting_them() -> None:
    """Heads of 4 rows: pairs (i, i + 2) become neighbours, and come back."""
    rows = np.arange(16).reshape(8, 2)
    assert interleave_rows(rows, 2)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]
    assert np.array_equal(split_rows(interleave_rows(rows, 2), 2), rows)


@pytest.mark.requirement("R3")
def test_what_a_form_cannot_say_is_refused(zg_tiny: ModelBundle, forms: dict[str, Path], tmp_path: Path) -> None:
    """An unknown weight type; rows that are not whole blocks; an MLX directory from a GGUF; nothing is left behind."""
    odd = Geometry("odd", "llama", 72, 1, 2, 1, 36, 72, False, "10000.0")
    narrow = open_bundle(write_geometry(odd, 0, tmp_path / "odd"))
    for attempt in (
        lambda: write_gguf(zg_tiny, tmp_path / "x.gguf", "q3_k"),
        lambda: write_gguf(narrow, tmp_path / "x.gguf", "q8_0"),
        lambda: write_mlx(narrow, tmp_path / "x", 4),
        lambda: write_mlx(zg_tiny, tmp_path / "x", 5),
        lambda: write_mlx(open_bundle(forms["f32.gguf"]), tmp_path / "x"),
    ):
        with pytest.raises(ZeitgeistError) as caught:
            attempt()
        assert caught.value.id == "zg/model/cannot-express"
    assert not [path for path in tmp_path.rglob("*") if path.stem == "x" or path.suffix == ".partial"]


@pytest.mark.requirement("C4")
def test_quantised_values_are_those_of_the_gguf_package(forms: dict[str, Path]) -> None:
    """Dequantising Q8_0, Q4_0, Q4_1 blocks ourselves gives its numbers bit for bit."""
    import gguf

    for form in ("q8_0", "q4_0", "q4_1"):
        tensor = next(t for t in gguf.GGUFReader(forms[f"{form}.gguf"]).tensors if t.name == "blk.1.ffn_up.weight")
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert open_bundle(forms[f"{form}.gguf"]).tensor("layers.1.up").tobytes() == wanted.tobytes(), form
