"""Digests: equal for one model in every form, different for every difference that changes numbers or ids."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from fixtures.manifest import ZG_TINY
from zeitgeist.convert.safetensors_file import open_safetensors, pack
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import ModelBundle, open_bundle
from zeitgeist.models.identity import merkle_root


def edited(directory: Path, file: str, change: object) -> ModelBundle:
    """A copy of zg-tiny with one JSON file changed by a function on its object."""
    shutil.copytree(ZG_TINY, directory, ignore=shutil.ignore_patterns(".*"))
    fields = json.loads((directory / file).read_text())
    change(fields)  # type: ignore[operator]
    (directory / file).write_text(json.dumps(fields))
    return open_bundle(directory)


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("form", ["f32.gguf", "mlx-f32"])
def test_one_model_has_one_digest_in_every_form(zg_tiny: ModelBundle, forms: dict[str, Path], form: str) -> None:
    """Hugging Face, GGUF F32 (rows permuted) and MLX.

    Model, tokenizer, vocabulary and configuration equal; artifact not.
    """
    ours, theirs = zg_tiny.descriptor(), open_bundle(forms[form]).descriptor()
    assert (theirs.model, theirs.tokenizer, theirs.vocabulary) == (ours.model, ours.tokenizer, ours.vocabulary)
    assert theirs.config == ours.config and theirs.artifact != ours.artifact


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("form", ["f16.gguf", "q8_0.gguf", "q4_0.gguf", "q4_1.gguf", "mlx-8bit", "mlx-4bit"])
def test_a_rounded_or_quantised_form_is_another_model_with_the_same_tokenizer(
    zg_tiny: ModelBundle, forms: dict[str, Path], form: str
) -> None:
    """Its numbers are other numbers, so cache exchange is not allowed by identity alone."""
    ours, theirs = zg_tiny.descriptor(), open_bundle(forms[form]).descriptor()
    assert theirs.model != ours.model and theirs.tokenizer == ours.tokenizer


@pytest.mark.requirement("A3")
def test_the_identity_is_found_in_half_a_second(zg_tiny: ModelBundle) -> None:
    """Processor time of reading and digesting zg-tiny, 1.3 M parameters."""
    start = time.process_time()
    open_bundle(ZG_TINY).descriptor()
    assert time.process_time() - start < 0.5


@pytest.mark.requirement("A3")
def test_one_bit_of_one_weight_changes_the_model_and_nothing_else(zg_tiny: ModelBundle, tmp_path: Path) -> None:
    """The last bit of one of 1.3 M numbers."""
    shutil.copytree(ZG_TINY, tmp_path / "m", ignore=shutil.ignore_patterns(".*"))
    path = tmp_path / "m" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    ours, theirs = zg_tiny.descriptor(), open_bundle(tmp_path / "m").descriptor()
    assert theirs.model != ours.model and theirs.tokenizer == ours.tokenizer and theirs.artifact != ours.artifact


@pytest.mark.requirement("A3")
@pytest.mark.parametrize(
    "name, value",
    [
        ("rms_norm_eps", 1e-6),
        ("rope_parameters", {"rope_theta": 20000.0, "rope_type": "default"}),
        ("rope_parameters", {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}),
    ],
)
def test_a_constant_that_changes_numbers_changes_the_model(
    zg_tiny: ModelBundle, tmp_path: Path, name: str, value: object
) -> None:
    """Norm epsilon, rotary base, rotary scaling."""
    other = edited(tmp_path / "m", "config.json", lambda fields: fields.update({name: value}))
    assert other.descriptor().model != zg_tiny.descriptor().model


@pytest.mark.requirement("A3")
def test_a_constant_that_changes_no_number_does_not_change_the_model(zg_tiny: ModelBundle, tmp_path: Path) -> None:
    """The stated context length, the older spelling of the rope, and an epsilon with more digits than float32 has."""

    def change(fields: dict[str, object]) -> None:
        fields.pop("rope_parameters")
        fields.update(rope_theta=10000, rope_scaling=None, max_position_embeddings=512, rms_norm_eps=9.99999999e-06)

    assert edited(tmp_path / "m", "config.json", change).descriptor().model == zg_tiny.descriptor().model


@pytest.mark.requirement("A3")
def test_merges_template_and_specials_change_the_tokenizer_but_not_the_vocabulary(
    zg_tiny: ModelBundle, tmp_path: Path
) -> None:
    """Two merges swapped in rank; another chat template; a special token that is no longer special."""

    def swap(fields: dict[str, dict[str, list[object]]]) -> None:
        merges = fields["model"]["merges"]
        merges[0], merges[1] = merges[1], merges[0]

    ours = zg_tiny.descriptor()
    others = [
        edited(tmp_path / "a", "tokenizer.json", swap),
        edited(tmp_path / "b", "tokenizer_config.json", lambda fields: fields.update(chat_template="{{ 1 }}")),
    ]
    for other in others:
        descriptor = other.descriptor()
        assert descriptor.tokenizer != ours.tokenizer and descriptor.vocabulary == ours.vocabulary
        assert descriptor.model == ours.model


@pytest.mark.requirement("A3")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_has_no_identity(tmp_path: Path, value: float) -> None:
    """Refused with the tensor's name."""
    shutil.copytree(ZG_TINY, tmp_path / "m", ignore=shutil.ignore_patterns(".*"))
    path = tmp_path / "m" / "model.safetensors"
    file = open_safetensors(path)
    tensors = [(name, *file.tensor(name)) for name in file.names()]
    tensors = [
        (
            name,
            dtype,
            np.where(np.arange(data.size) == 3, np.float32(value), data.ravel()).reshape(data.shape)
            if name == "model.norm.weight"
            else data,
        )
        for name, dtype, data in tensors
    ]
    path.write_bytes(pack(tensors, {"format": "pt"}))
    with pytest.raises(ZeitgeistError) as caught:
        open_bundle(tmp_path / "m").descriptor()
    assert caught.value.id == "zg/model/not-finite" and caught.value.field == "norm"


@pytest.mark.requirement("A3")
def test_the_merkle_root_depends_on_every_leaf_and_on_their_order() -> None:
    """1 to 9 leaves: change one, swap two, drop one: always another root."""
    for count in range(1, 10):
        leaves = [bytes([index]) * 32 for index in range(count)]
        others = [[*leaves[:index], b"\xff" * 32, *leaves[index + 1 :]] for index in range(count)]
        others += [leaves[:-1], leaves[::-1]] if count > 1 else []
        assert len({merkle_root(other) for other in [leaves, *others]}) == len(others) + 1
