"""What a backend says of itself (A2). Certify tests each claim; what is not claimed must be refused."""

from typing import Annotated, Literal

from msgspec import Meta

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.kv import CacheForm
from zeitgeist.core.ids import Digest

__all__ = ["BACKEND_CLASSES", "CAPABILITIES", "BackendDescriptor", "Library"]

BACKEND_CLASSES = (
    "local_serving",
    "cache_capable",
    "tensor_export",
    "distributed_execution",
    "planner_only",
    "client_only",
)

CAPABILITIES = (
    "tokenize",
    "prefill",
    "decode",
    "batched_decode",
    "logprobs",
    "truncate",
    "fork",
    "layer_range",
    "cache_export",
    "cache_import",
    "cancel",
    "metrics",
)
"""Every word a backend may put into `capabilities`. A subject that claims or accepts any other word is not admitted."""

Words = Annotated[tuple[str, ...], Meta(max_length=64)]
"""Far more than any engine has to say; a stranger's list of a million words would take sixteen times its bytes."""


class Library(Record, frozen=True, kw_only=True):
    """One native library or package the engine runs on, with the digest of what was really loaded."""

    name: str
    version: str
    digest: Digest


class BackendDescriptor(Record, frozen=True, kw_only=True):
    """The claims of one backend, after `load` where a claim depends on the model.

    name: `torch`, `mlx`, `llama_cpp`, `reference`, `custom/<vendor>/<runtime>`; variant: our name for the options;
    band: the precision it claims end to end with these options (`x32`, `x16`, `q8`, `q4`);
    activations: "" or the block schema the engine rounds activations to before a quantised product (`ggml_q8_0`);
    cache_forms: what it exports (first) and imports (all); empty before load, or when it is not cache-capable;
    batch_invariant, chunk_invariant, run_to_run: claims of bitwise equality, each tested;
    handled: ids of engine defects that this adapter works around, as `certify/findings.py` names them.
    """

    backend_version: int = 1
    name: str
    variant: str
    version: str
    libraries: Annotated[tuple[Library, ...], Meta(max_length=64)]
    classes: Words
    capabilities: Words
    families: Words
    context_max: int
    weight_dtypes: Words
    quantization: Words
    attention: Words
    cache_forms: Annotated[tuple[CacheForm, ...], Meta(max_length=64)]
    tensor_formats: Words
    parallelism: Words
    sampler: Literal["canonical", "native"]
    prompt: Literal["ids", "text"]
    streaming: bool
    batch_max: int
    band: Literal["x32", "x16", "q8", "q4"]
    activations: str
    batch_invariant: bool
    chunk_invariant: bool
    run_to_run: bool
    isolation: Literal["process", "none"]
    handled: Words = ()
