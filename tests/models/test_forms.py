"""Opening models: every form that we read, and every other refused by name without being opened."""

import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.manifest import ZG_TINY
from zeitgeist.convert.safetensors_file import open_safetensors, pack
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import ModelBundle, open_bundle
from zeitgeist.models.safetensors_source import hf_name


def copied(directory: Path) -> Path:
    """zg-tiny without hidden files, to be changed."""
    shutil.copytree(ZG_TINY, directory, ignore=shutil.ignore_patterns(".*"))
    return directory


def tensors_of(directory: Path) -> dict[str, tuple[str, Any]]:
    """Name → (dtype, data)."""
    file = open_safetensors(directory / "model.safetensors")
    return {name: file.tensor(name) for name in file.names()}


def write_tensors(path: Path, tensors: dict[str, tuple[str, Any]]) -> None:
    """The file again."""
    path.write_bytes(pack([(name, *item) for name, item in tensors.items()], {"format": "pt"}))


def refused(path: Path) -> ZeitgeistError:
    """The error of opening and describing."""
    with pytest.raises(ZeitgeistError) as caught:
        open_bundle(path).descriptor()
    return caught.value


@pytest.mark.requirement("R3")
def test_sharded_weights_are_one_model(zg_tiny: ModelBundle, tmp_path: Path) -> None:
    """Three shards and an index give the digests of the one file."""
    directory = copied(tmp_path / "m")
    tensors = tensors_of(directory)
    index: dict[str, str] = {}
    for shard in range(3):
        part = {name: tensors[name] for position, name in enumerate(tensors) if position % 3 == shard}
        write_tensors(directory / f"model-{shard}.safetensors", part)
        index |= dict.fromkeys(part, f"model-{shard}.safetensors")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert open_bundle(directory).descriptor().model == zg_tiny.descriptor().model
    (directory / "model-1.safetensors").unlink()
    assert refused(directory).id == "zg/safetensors/unreadable"


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json", "s.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_not_a_regular_file_is_refused_and_never_read(tmp_path: Path, name: str, kind: str) -> None:
    """A FIFO would hold its reader for ever, /dev/zero fill the memory: a child reads, so that a failure ends too."""
    directory = copied(tmp_path / "m")
    if name in ("model.safetensors.index.json", "s.safetensors"):
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors.index.json").write_text('{"weight_map": {"x": "s.safetensors"}}')
    (directory / name).unlink(missing_ok=True)
    make = {"fifo": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind]
    make(directory / name)
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from pathlib import Path; from zeitgeist.core.errors import ZeitgeistError\n"
        "from zeitgeist.models.bundle import open_bundle\n"
        "try:\n    open_bundle(Path(sys.argv[1])).descriptor()\nexcept ZeitgeistError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr[-400:]
    if name == "model.safetensors.index.json":
        assert "weights.npz" in done.stdout  # an index that is no file is no index, so nothing holds the weights
    else:
        assert name in done.stdout and "not a regular file" in done.stdout, done.stdout


@pytest.mark.requirement("R3")
def test_a_chat_template_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    """Half a surrogate pair in tokenizer_config.json; bytes that are not UTF-8 in chat_template.jinja."""
    directory = copied(tmp_path / "m")
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "\ud800"}))
    error = refused(directory)
    assert (error.id, error.field) == ("zg/model/bad-config", "tokenizer_config.json: chat_template")
    (directory / "chat_template.jinja").write_bytes(b"\xff")
    error = refused(directory)
    assert (error.id, error.field) == ("zg/model/bad-config", "chat_template.jinja")


@pytest.mark.requirement("R3")
def test_members_of_an_npz_that_share_their_bytes_are_refused_together(tmp_path: Path) -> None:
    """90 names for one stored member: each alone is sound, together they are 90 times what the archive holds."""
    directory = copied(tmp_path / "m")
    (directory / "model.safetensors").unlink()
    with zipfile.ZipFile(directory / "weights.npz", "w") as archive:
        archive.writestr("model.norm.weight.npy", os.urandom(100_000))
        for index in range(90):
            shared = copy.copy(archive.infolist()[0])
            shared.filename = f"t{index}.npy"
            archive.filelist.append(shared)
    error = refused(directory)
    assert (error.id, error.field) == ("zg/model/refused-format", "weights.npz: all members")


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("file", ["a\0.safetensors", "\ud800.safetensors", 7])
def test_a_shard_name_that_no_file_can_have_is_refused_by_its_field(tmp_path: Path, file: object) -> None:
    """A NUL, half a surrogate pair, a number: refusals, not the exceptions of the file system."""
    directory = copied(tmp_path / "m")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": file}}))
    error = refused(directory)
    assert error.id in ("zg/model/refused-format", "zg/model/bad-config") and "weight_map" in error.field


@pytest.mark.requirement("R3")
def test_an_error_line_is_short_and_utf_8_whatever_it_quotes(tmp_path: Path) -> None:
    """A tensor of the index with a name of 2 MB and half a surrogate pair: the line that names it can be sent."""
    directory = copied(tmp_path / "m")
    index = {"weight_map": {"\ud800" + "x" * 2_000_000: "model.safetensors"}}
    (directory / "model.safetensors").rename(directory / "m.safetensors")
    index["weight_map"] = dict.fromkeys(index["weight_map"], "m.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refused(directory)
    assert error.id == "zg/model/tensor-missing" and len(str(error).encode()) < 2000


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("file", ["../evil.safetensors", "/etc/passwd", "model.bin", "a/b.safetensors"])
def test_a_shard_index_cannot_lead_outside_the_directory(tmp_path: Path, file: str) -> None:
    """A path, or a pickle, as the name of a shard."""
    directory = copied(tmp_path / "m")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": file}}))
    assert refused(directory).id == "zg/model/refused-format"


@pytest.mark.requirement("R3")
def test_one_weights_file_beside_its_configuration_is_a_model(zg_tiny: ModelBundle, tmp_path: Path) -> None:
    """The path of the file instead of the directory's; and the same tensors as an MLX .npz, stored and deflated."""
    directory = copied(tmp_path / "m")
    found = open_bundle(directory / "model.safetensors").descriptor()
    assert found.form == "safetensors" and found.model == zg_tiny.descriptor().model
    arrays = {name: data for name, (_, data) in tensors_of(directory).items()}
    (directory / "model.safetensors").unlink()
    for save in (np.savez, np.savez_compressed):
        save(directory / "weights.npz", **arrays)
        for path in (directory, directory / "weights.npz"):
            found = open_bundle(path).descriptor()
            assert found.form == "mlx" and found.model == zg_tiny.descriptor().model


class Trap:
    """Unpickling this would create a file."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ["ZG_TRAP"],)


@pytest.mark.requirement("R3")
def test_an_npz_with_a_pickle_inside_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object array whose unpickling would make a directory."""
    monkeypatch.setenv("ZG_TRAP", str(tmp_path / "sprung"))
    directory = copied(tmp_path / "m")
    (directory / "model.safetensors").unlink()
    np.savez(directory / "weights.npz", **{"model.norm.weight": np.array([Trap()], dtype=object)})
    assert refused(directory).id == "zg/model/refused-format"
    assert not (tmp_path / "sprung").exists()


@pytest.mark.requirement("R3")
def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    """Cut, overwritten in the middle, a zip bomb, a member that is no array."""
    directory = copied(tmp_path / "m")
    arrays = {name: data for name, (_, data) in tensors_of(directory).items()}
    (directory / "model.safetensors").unlink()
    path = directory / "weights.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        whole[:1000] + b"\xff" * 60 + whole[1060:],
        b"PK\x03\x04" + b"\0" * 50,
    ):
        path.write_bytes(damaged)
        refused(directory)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.norm.weight.npy", b"\0" * 10_000_000)
    assert refused(directory).id == "zg/model/refused-format"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.norm.weight.npy", b"no array at all")
    refused(directory)


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    "name",
    [
        "model.bin",
        "model.pt",
        "model.pth",
        "model.ckpt",
        "m.pkl",
        "model.onnx",
        "model.ts",
        "model.h5",
        "model.torchscript",
        "model.txt",
        "model",
    ],
)
def test_a_form_that_can_hold_code_is_refused_by_name_and_never_opened(tmp_path: Path, name: str) -> None:
    """As a path, also when nobody may read it; as the only weights of a directory by the file's name."""
    path = tmp_path / name
    path.write_bytes(b"\x80\x04")
    path.chmod(0)
    found = refused(path)
    assert found.id == "zg/model/refused-format" and name in found.field
    if name not in ("model.txt", "model"):
        assert name in refused(tmp_path).field


@pytest.mark.requirement("R3")
def test_what_is_not_there_is_said_to_be_not_there(tmp_path: Path) -> None:
    """A wrong path, an empty directory, a directory without config or weights."""
    assert refused(tmp_path / "nowhere").id == "zg/model/not-found"
    assert refused(tmp_path / "nowhere.gguf").id == "zg/model/not-found"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").id == "zg/model/tensor-missing"
    directory = copied(tmp_path / "m")
    (directory / "config.json").unlink()
    assert refused(directory).field == "config.json"
    directory = copied(tmp_path / "n")
    (directory / "tokenizer.json").unlink()
    assert refused(directory).field == "tokenizer.json"


def without_norm(tensors: dict[str, Any]) -> None:
    del tensors["model.norm.weight"]


def with_bias(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.mlp.up_proj.bias"] = ("f32", np.zeros(384, np.float32))


def with_a_seventh_layer(tensors: dict[str, Any]) -> None:
    tensors["model.layers.6.input_layernorm.weight"] = ("f32", np.ones(128, np.float32))


def with_a_narrow_matrix(tensors: dict[str, Any]) -> None:
    tensors[hf_name("layers.2.up")] = ("f32", np.zeros((384, 127), np.float32))


def with_a_matrix_on_its_side(tensors: dict[str, Any]) -> None:
    tensors[hf_name("layers.2.up")] = ("f32", np.zeros((128, 384), np.float32))


def with_integers(tensors: dict[str, Any]) -> None:
    tensors[hf_name("norm")] = ("i32", np.ones(128, np.int32))


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    "change, id, field",
    [
        (without_norm, "tensor-missing", "norm"),
        (with_bias, "tensor-unexpected", "up_proj.bias"),
        (with_a_seventh_layer, "tensor-unexpected", "layers.6"),
        (with_a_narrow_matrix, "bad-shape", "layers.2.up"),
        (with_a_matrix_on_its_side, "bad-shape", "layers.2.up"),
        (with_integers, "bad-shape", "model.norm.weight"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    tmp_path: Path, change: Any, id: str, field: str
) -> None:
    """Missing, foreign, misshapen and mistyped tensors, by name, when the model is opened."""
    directory = copied(tmp_path / "m")
    tensors = tensors_of(directory)
    change(tensors)
    write_tensors(directory / "model.safetensors", tensors)
    with pytest.raises(ZeitgeistError) as caught:
        open_bundle(directory)
    assert caught.value.id == f"zg/model/{id}" and field in caught.value.field


@pytest.mark.requirement("R3")
def test_a_head_said_to_be_tied_must_be_the_embedding_or_absent(tmp_path: Path) -> None:
    """zg-tiny's head is its own: saying tied contradicts the file; without the tensor it is tied."""
    directory = copied(tmp_path / "m")
    fields = json.loads((directory / "config.json").read_text()) | {"tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(fields))
    assert refused(directory).id == "zg/model/bad-config"
    tensors = tensors_of(directory)
    del tensors["lm_head.weight"]
    write_tensors(directory / "model.safetensors", tensors)
    bundle = open_bundle(directory)
    assert bundle.descriptor().tied_head and np.array_equal(bundle.tensor("head"), bundle.tensor("embed"))
    assert bundle.descriptor().parameter_count == 1_312_384 - 512 * 128


@pytest.mark.requirement("R3")
def test_mlx_groups_must_fit_each_other(forms: dict[str, Path], tmp_path: Path) -> None:
    """Scales of another shape, missing biases, an unknown mode, an unknown number of bits."""

    def broken(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> ZeitgeistError:
        directory = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        shutil.copytree(forms["mlx-4bit"], directory)
        tensors, fields = tensors_of(directory), json.loads((directory / "config.json").read_text())
        change(tensors, fields)
        fields["quantization_config"] = fields["quantization"]
        write_tensors(directory / "model.safetensors", tensors)
        (directory / "config.json").write_text(json.dumps(fields))
        return refused(directory)

    scales, biases = "model.layers.0.mlp.up_proj.scales", "model.layers.0.mlp.up_proj.biases"
    assert broken(lambda t, f: t.update({scales: ("f32", t[scales][1][:, :3])})).id == "zg/model/bad-shape"
    assert broken(lambda t, f: t.pop(biases)).id == "zg/model/bad-shape"
    assert broken(lambda t, f: t.pop(scales)).id == "zg/model/bad-shape"
    assert broken(lambda t, f: f["quantization"].update(mode="mxfp4")).id == "zg/model/unsupported"
    assert broken(lambda t, f: f["quantization"].update(bits=3)).id == "zg/model/unsupported"
    assert broken(lambda t, f: f["quantization"].update({"model.layers.0": False})).id == "zg/model/unsupported"
