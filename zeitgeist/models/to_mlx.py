"""A bundle → an MLX directory that mlx-lm loads: float32, or affine groups of 32 with 8 or 4 bits (R3, C4).

The form is that of mlx-lm: `quantization` in config.json, `weight`/`scales`/`biases` for every matrix, norms plain.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from zeitgeist.convert.quantise import affine_quantise
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.models.bundle import ModelBundle
from zeitgeist.models.hf_tokenizer import TOKENIZER_FILES
from zeitgeist.models.safetensors_source import hf_name
from zeitgeist.models.to_hf import config_fields, plain, rope_fields, write_directory

__all__ = ["GROUP_SIZE", "write_mlx"]

GROUP_SIZE = 32
"""The group for which MLX's 4-bit form and GGUF's Q4_1 hold the same numbers."""


def write_mlx(bundle: ModelBundle, directory: Path, bits: int = 32) -> Path:
    """Write directory. bits.

    32 (plain float32), 8 or 4. The tokenizer files are copied, so the bundle must be a directory.
    """
    if bits not in (32, 8, 4):
        raise LocalProtocolError("zg/model/cannot-express", f"got {bits} bits, wanted 32, 8 or 4", "bits")
    if bundle.config.rope.scaling == "factors" or not bundle.path.is_dir():
        raise LocalProtocolError(
            "zg/model/cannot-express",
            f"{bundle.path.name} is not a Hugging Face directory: its rope words and tokenizer files are needed",
            "path",
        )
    fields = mlx_config(bundle, bits)
    write_directory(directory, fields, stored_tensors(bundle, bits), "mlx")
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (bundle.path / name).is_file():
            shutil.copyfile(bundle.path / name, directory / name)
    return directory


def mlx_config(bundle: ModelBundle, bits: int) -> dict[str, Any]:
    """config.json with the rope at both places, and the quantisation under both names that mlx-lm writes."""
    config = bundle.config
    fields = config_fields(config, bundle.tied_head, bundle.tokenizer.bos, bundle.tokenizer.eos)
    fields["rope_theta"] = float(config.rope.theta)
    if config.rope.scaling != "none":
        fields["rope_scaling"] = {key: value for key, value in rope_fields(config).items() if key != "rope_theta"}
    if bits < 32:
        quantised = {"group_size": GROUP_SIZE, "bits": bits, "mode": "affine"}
        fields |= {"quantization": quantised, "quantization_config": quantised}
    return fields


def stored_tensors(bundle: ModelBundle, bits: int) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """(name in the file, dtype, data): matrices in groups, vectors plain; a tied head is left out."""
    for name in bundle.names():
        if name == "head" and bundle.tied_head:
            continue
        values = bundle.tensor(name)
        if bits == 32 or values.ndim == 1:
            yield plain(name, values)
            continue
        if values.shape[1] % GROUP_SIZE:
            raise LocalProtocolError(
                "zg/model/cannot-express", f"rows of {values.shape[1]} are not whole groups of {GROUP_SIZE}", name
            )
        base = hf_name(name).removesuffix(".weight")
        groups = affine_quantise(values, bits, GROUP_SIZE)
        yield base + ".weight", "u32", groups.weight
        yield base + ".scales", "f32", groups.scales
        yield base + ".biases", "f32", groups.biases
