"""What the suite must say of engines as they are published: each finding by its id, its kind, and the right family."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine("mlx"), pytest.mark.engine("llama_cpp"), pytest.mark.requirement("W1")]
TOOL = Path(sys.executable).parent / "zg-certify"

EXPECTED = [
    ("mlx:raw", "G.logits[llama-d64-kv1-gqa4-tied-theta500k]", "rope-theta-ignored", "defect", "G", 1),
    ("llama_cpp:fa", "N.precision-as-declared", "f32-cache-read-as-f16", "property", "N", 0),
    ("llama_cpp:stock", "D.batch-invariance[8]", "not-batch-invariant", "property", "D", 0),
    ("llama_cpp:stock", "D.chunk-invariance[1]", "not-chunk-invariant", "property", "D", 0),
    ("llama_cpp:kv-q8_0", "V.geometry", "hadamard-rotated-quantised-cache", "trap", "V", 0),
    ("llama_cpp", "X.one-zeroed-head", "one-zeroed-head", "control", "X", 0),
]


@pytest.mark.parametrize(("subject", "case", "finding", "kind", "family", "code"), EXPECTED)
def test_a_published_engine_is_found_out_under_the_right_family(
    subject: str, case: str, finding: str, kind: str, family: str, code: int, tmp_path: Path
) -> None:
    """One case through the command line; a defect fails its check, a property, a trap and a control do not."""
    words = ["run", "--subject", subject, "--check", case, "--peers", "none", "--level", "standard", "--json"]
    done = subprocess.run([TOOL, *words, "--out", tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert (finding, kind, family) in {(f["id"], f["kind"], f["family"]) for f in told["findings"]}


@pytest.mark.parametrize("case", ["D.batch-invariance[8]", "D.chunk-invariance[1]"])
def test_our_build_of_llama_cpp_is_invariant_where_the_stock_build_is_not(case: str, tmp_path: Path) -> None:
    """The same cases on `llama_cpp`: bit for bit, and nothing to find."""
    words = ["run", "--subject", "llama_cpp", "--check", case, "--peers", "none", "--level", "standard", "--json"]
    done = subprocess.run([TOOL, *words, "--out", tmp_path], capture_output=True, text=True, cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["counts"]["*"], told["findings"]) == (0, {"EXACT": 1}, [])
