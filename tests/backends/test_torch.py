"""The torch adapter on the real engine (I3, D2, F8)."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from engine_contract import EngineContract
from engine_models import PROMPT, distance, model, tolerance

from zeitgeist.backends import torch as module
from zeitgeist.core.descriptors.model import ModelConfig

pytestmark = pytest.mark.engine("torch")


class TestTorch(EngineContract):
    """The contract, on torch with transformers."""

    module = module
    library_file = "torch/lib/libtorch_cpu" + (".dylib" if sys.platform == "darwin" else ".so")

    @pytest.mark.requirement("I3")
    def test_eager_attention_is_another_path_to_the_same_logits(self):
        """Within the f32 band of float64, and described as the variant that it is."""
        backend, truth = self.loaded(attention="eager"), model("llama").logits
        assert distance(backend.prefill(backend.open(), PROMPT), truth) <= tolerance(truth)
        assert backend.describe().variant == "eager" and backend.describe().attention == ("eager",)

    @pytest.mark.requirement("I3")
    def test_llama_with_biases_is_not_served(self, engine: Any):
        """transformers' attention_bias adds a bias to o, which no canonical tensor holds; the field is named."""
        fields = {name: getattr(model("llama").bundle.config, name) for name in ModelConfig.__struct_fields__}
        assert engine.can_serve(ModelConfig(**fields), "f32").ok
        assert "qkv_bias" in engine.can_serve(ModelConfig(**{**fields, "qkv_bias": True}), "f32").reasons[0]


@pytest.mark.requirement("I12")
@pytest.mark.parametrize(
    ("name", "engine"), [("torch", "torch"), ("torch", "transformers"), ("mlx", "mlx.core"), ("mlx", "mlx_lm")]
)
def test_importing_the_adapter_imports_no_engine(name: str, engine: str):
    """A fresh interpreter: listing subjects must not cost seconds, nor need what is not installed."""
    code = f"import sys, zeitgeist.backends.{name} as m; m.VARIANTS; sys.exit({engine!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.requirement("F8")
def test_stages_share_the_weights_of_the_model():
    """Opening a stage copies no parameter: the same storage, and the whole model is left as it was."""
    backend: Any = module.create({})
    backend.load(model("llama").bundle)
    before = backend.prefill(backend.open(), PROMPT[:9])
    from zeitgeist.backends.base import LayerRange

    backend.open(LayerRange(3, 6))
    stage = backend.stages[LayerRange(3, 6)]
    ours, theirs = stage.layers[0].mlp.up_proj.weight, backend.model.model.layers[3].mlp.up_proj.weight
    assert ours.data_ptr() == theirs.data_ptr() and len(stage.layers) == 3
    assert backend.model.model.layers[3].self_attn.layer_idx == 3
    assert np.array_equal(before, backend.prefill(backend.open(), PROMPT[:9]))
