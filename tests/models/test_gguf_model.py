"""A sound GGUF file that says something we do not know, or contradicts its tensors: refused by name."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from certify.geometry import GEOMETRIES, write_geometry
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.models.bundle import open_bundle
from zeitgeist.models.gguf_file import open_gguf
from zeitgeist.models.to_gguf import write_gguf

U32, F32, TEXT = 4, 6, 8
HEADER_BYTES = 24


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with llama3 scaling, so with `rope_freqs.weight` as its first tensor."""
    directory = tmp_path_factory.mktemp("sound")
    geometry = next(g for g in GEOMETRIES if g.scaling == "llama3")
    return write_gguf(open_bundle(write_geometry(geometry, 0, directory / "m")), directory / "m.gguf")


def text(value: str) -> bytes:
    """A GGUF string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def inserted(key: str, kind: int, body: bytes) -> Callable[[bytearray, int], bytes]:
    """One more entry; a second one pads the insertion to 32 bytes, so that the data stay aligned."""

    def change(data: bytearray, data_start: int) -> bytes:
        entry = text(key) + struct.pack("<I", kind) + body
        frame = len(text("pad.pad") + struct.pack("<I", TEXT) + text(""))
        entry += text("pad.pad") + struct.pack("<I", TEXT) + text("x" * (-(len(entry) + frame) % 32))
        count = struct.unpack_from("<Q", data, 16)[0] + 2
        return bytes(data[:16]) + struct.pack("<Q", count) + entry + bytes(data[HEADER_BYTES:])

    return change


def replaced(key: str, kind: int, body: bytes) -> Callable[[bytearray, int], bytes]:
    """An entry's value overwritten by one of the same length."""

    def change(data: bytearray, data_start: int) -> bytes:
        place = data.index(text(key) + struct.pack("<I", kind)) + len(text(key)) + 4
        data[place : place + len(body)] = body
        return bytes(data)

    return change


def first_divisor(value: float) -> Callable[[bytearray, int], bytes]:
    """The first number of `rope_freqs.weight`."""

    def change(data: bytearray, data_start: int) -> bytes:
        data[data_start : data_start + 4] = struct.pack("<f", value)
        return bytes(data)

    return change


def u32(value: int) -> bytes:
    """The body of a u32 entry."""
    return struct.pack("<I", value)


REFUSED: dict[str, tuple[Callable[[bytearray, int], bytes], str, str]] = {
    "experts": (inserted("llama.expert_count", U32, u32(8)), "unsupported", "expert_count"),
    "sliding window": (inserted("llama.attention.sliding_window", U32, u32(64)), "unsupported", "sliding_window"),
    "a scale of the logits": (inserted("llama.logit_scale", F32, struct.pack("<f", 2.0)), "unsupported", "logit_scale"),
    "yarn": (inserted("llama.rope.scaling.type", TEXT, text("yarn")), "unsupported", "rope.scaling.type"),
    "two scalings": (inserted("llama.rope.scaling.type", TEXT, text("linear")), "unsupported", "rope_freqs"),
    "architecture": (replaced("general.architecture", TEXT, text("gemma")), "unknown-architecture", "architecture"),
    "kv heads": (replaced("llama.attention.head_count_kv", U32, u32(3)), "bad-config", "kv_head_count"),
    "partial rotary": (replaced("llama.rope.dimension_count", U32, u32(32)), "unsupported", "dimension_count"),
    "value width": (replaced("llama.attention.value_length", U32, u32(32)), "unsupported", "value_length"),
    "one layer more": (replaced("llama.block_count", U32, u32(3)), "tensor-missing", "layers.2"),
    "layers past the bound": (replaced("llama.block_count", U32, u32(1025)), "bad-config", "block_count"),
    "width past the bound": (replaced("llama.embedding_length", U32, u32(1 << 30)), "bad-config", "embedding_length"),
    "one layer less": (replaced("llama.block_count", U32, u32(1)), "tensor-unexpected", "blk.1"),
    "another width": (replaced("llama.embedding_length", U32, u32(32)), "bad-shape", "embed"),
    "another vocabulary": (replaced("llama.vocab_size", U32, u32(511)), "bad-shape", "embed"),
    "epsilon 0": (replaced("llama.attention.layer_norm_rms_epsilon", F32, bytes(4)), "bad-config", "rms_epsilon"),
    "base NaN": (replaced("llama.rope.freq_base", F32, b"\0\0\xc0\x7f"), "bad-config", "freq_base"),
    "divisor 0": (first_divisor(0.0), "not-finite", "rope_freqs"),
    "divisor NaN": (first_divisor(float("nan")), "not-finite", "rope_freqs"),
    "tokenizer": (replaced("tokenizer.ggml.model", TEXT, text("bert")), "unknown-tokenizer", "ggml.model"),
    "splitting": (replaced("tokenizer.ggml.pre", TEXT, text("falco")), "unknown-tokenizer", "ggml.pre"),
    "start outside": (replaced("tokenizer.ggml.bos_token_id", U32, u32(9999)), "bad-tokenizer", "bos_token_id"),
    "token twice": (lambda d, _: bytes(d).replace(text("<|eos|>"), text("<|bos|>")), "bad-tokenizer", "tokens"),
}


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_says_what_we_do_not_know_is_refused_by_name(sound: Path, tmp_path: Path, case: str) -> None:
    """Keys that would change the numbers, sizes that contradict the tensors, tokenizers of another kind."""
    change, id, field = REFUSED[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(change(bytearray(sound.read_bytes()), open_gguf(sound).data_start))
    with pytest.raises(ZeitgeistError) as caught:
        open_bundle(path).descriptor()
    assert caught.value.id == f"zg/model/{id}" and field in caught.value.field, str(caught.value)


@pytest.mark.requirement("R3")
def test_an_unknown_key_that_says_zero_or_is_not_the_architectures_is_harmless(sound: Path, tmp_path: Path) -> None:
    """Writers state `expert_count` 0; general keys are descriptions. The model is the same, the artifact is not."""
    ours = open_bundle(sound).descriptor()
    for change in (inserted("llama.expert_count", U32, u32(0)), inserted("general.author", TEXT, text("somebody"))):
        path = tmp_path / "m.gguf"
        path.write_bytes(change(bytearray(sound.read_bytes()), 0))
        theirs = open_bundle(path).descriptor()
        assert (theirs.model, theirs.tokenizer) == (ours.model, ours.tokenizer) and theirs.artifact != ours.artifact
