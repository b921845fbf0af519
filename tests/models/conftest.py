"""Models for these tests: zg-tiny as committed, and its other forms made once for each run."""

from pathlib import Path

import pytest

from fixtures.make import make_forms
from fixtures.manifest import ZG_TINY
from zeitgeist.models.bundle import ModelBundle, open_bundle


@pytest.fixture(scope="session")
def zg_tiny() -> ModelBundle:
    """The committed Hugging Face form."""
    return open_bundle(ZG_TINY)


@pytest.fixture(scope="session")
def forms(zg_tiny: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every other form by name: `f32.gguf` … `mlx-4bit`. Read-only for tests."""
    out = tmp_path_factory.mktemp("forms")
    return {path.name.removeprefix("zg-tiny-"): path for path in make_forms(zg_tiny, out)}
