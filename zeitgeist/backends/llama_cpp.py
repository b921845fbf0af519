"""llama.cpp through its C API: our own build (batch-invariant) or the prebuilt wheel, CPU, one thread.

What it works around (clause I4): stock builds are neither batch- nor chunk-invariant (ours leaves
llamafile's sgemm out); flash
attention lowers an F32 cache to F16 precision (off by default); quantised caches of heads that 64 divides are stored
Hadamard-rotated and do not say so (the form says so); key pairing depends on the architecture (asked from llama.cpp);
state blobs of two versions look alike (the library is asked for its version); NaN in a
freed cell reaches the next session of that stream (such cells are overwritten).

Options: `library` own | stock; `kv` f32 | f16 | q8_0 | q4_0, or `kv_k` and `kv_v` apart; `flash_attention` off | on (a
quantised V needs on); `n_ctx` tokens of a session (0: the model's context, at most 4,096); `n_seq_max` sessions;
`threads`. Importing this module imports no engine.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zeitgeist.backends.base import F32, CacheArrays, LayerRange, Serve, Session, Variant
from zeitgeist.backends.llama_blob import ELEMENTS, build, parse
from zeitgeist.backends.llama_library import Engine, load
from zeitgeist.backends.llama_slices import write_slice
from zeitgeist.backends.llama_stage import BATCH, Settings, Stage
from zeitgeist.backends.llama_text import detokenize, tokenize
from zeitgeist.backends.sessions import ArraySession, Rows, SessionEngine
from zeitgeist.core.descriptors.backend import CAPABILITIES, BackendDescriptor
from zeitgeist.core.descriptors.model import FAMILIES, ModelConfig
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError, refuse
from zeitgeist.core.formats.kv import CacheForm, ElementForm
from zeitgeist.models.bundle import ModelBundle

__all__ = ["HANDLED", "VARIANTS", "LlamaBackend", "create"]

VARIANTS: tuple[Variant, ...] = (
    Variant("stock", "the prebuilt xllamacpp wheel, F32 cache", {"library": "stock"}),
    Variant("fa", "flash attention, F32 cache (of F16 precision)", {"flash_attention": "on"}),
    Variant("kv-f16", "F16 cache", {"kv": "f16"}),
    Variant("kv-q8_0", "Q8_0 cache, flash attention", {"kv": "q8_0", "flash_attention": "on"}),
    Variant("kv-q4_0", "Q4_0 cache, flash attention", {"kv": "q4_0", "flash_attention": "on"}),
)

HANDLED = ("f32-cache-read-as-f16", "hadamard-rotated-quantised-cache", "key-pairing-unsaid")
"""Said in the descriptor or the cache's form, where llama.cpp does not say it; ids of `certify/findings.py`."""

CONTEXT_DEFAULT_MAX = 4096
"""Memory of the F32 cache is reserved for every session at once: 16 sessions of 4,096 tokens of zg-tiny are 0.2 GB."""

BANDS = ("x32", "x16", "q8", "q4")
CACHE_BAND = {"f32": "x32", "f16": "x16", "q8_0": "q8", "q4_0": "q4"}
CHOICES = {
    "library": ("own", "stock"),
    "kv": tuple(ELEMENTS),
    "kv_k": tuple(ELEMENTS),
    "kv_v": tuple(ELEMENTS),
    "flash_attention": ("off", "on"),
}
COUNTS = {"n_ctx": (0, 0, 1 << 20), "n_seq_max": (16, 1, 64), "threads": (1, 1, 256)}
"""Default, least, most. llama.cpp knows at most 256 sequences; a batch has at most 64 sessions."""


@dataclass
class Slot:
    """The cache of a session: a sequence of a stage."""

    stage: Stage
    sequence: int


def create(options: Mapping[str, str]) -> "LlamaBackend":
    """Load the library and make the adapter. Errors: `zg/backend/bad-argument` and those of `llama_library.load`."""
    chosen, counts = read_options(options)
    return LlamaBackend(load(chosen["library"]), chosen, counts)


def read_options(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, int]]:
    """Every option with its value; names and values that do not exist are refused by name."""
    for name, value in options.items():
        if name not in CHOICES and name not in COUNTS:
            raise refuse("zg/backend/bad-argument", name[:40], value, "one of " + ", ".join((*CHOICES, *COUNTS)))
        if name in CHOICES and value not in CHOICES[name]:
            raise refuse("zg/backend/bad-argument", name, value, " or ".join(CHOICES[name]))
        _, least, most = COUNTS.get(name, (0, 0, 0))
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 9 else -1
        if name in COUNTS and not least <= number <= most:
            raise refuse("zg/backend/bad-argument", name, value, f"a number from {least} to {most}")
    kv = options.get("kv", "f32")
    chosen = {
        "library": options.get("library", "own"),
        "flash_attention": options.get("flash_attention", "off"),
        "kv_k": options.get("kv_k", kv),
        "kv_v": options.get("kv_v", kv),
    }
    if ELEMENTS[chosen["kv_v"]].block > 1 and chosen["flash_attention"] == "off":
        raise refuse("zg/backend/bad-argument", "flash_attention", "off", f"on, for a {chosen['kv_v']} V cache")
    return chosen, {name: int(options.get(name, default)) for name, (default, _, _) in COUNTS.items()}


class LlamaBackend(SessionEngine):
    """One model in llama.cpp; a further context for each layer range that is asked for."""

    chunk_default = BATCH

    def __init__(self, engine: Engine, chosen: dict[str, str], counts: dict[str, int]) -> None:
        super().__init__()
        self.engine, self.chosen, self.counts = engine, chosen, counts
        self.weights = ""
        self.rotates = True
        self.path: Path | None = None
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        self.stages: dict[LayerRange, Stage] = {}
        self.settings: Settings | None = None

    def describe(self) -> BackendDescriptor:
        """Claims; forms, band and activations are those of the loaded model."""
        own = self.chosen["library"] == "own"
        return BackendDescriptor(
            name="llama_cpp",
            variant=self.variant(),
            version=self.engine.version(),
            libraries=self.engine.libraries(),
            classes=("local_serving", "cache_capable", "tensor_export", "distributed_execution"),
            capabilities=CAPABILITIES,
            families=FAMILIES,
            context_max=self.settings.context if self.settings else 0,
            weight_dtypes=("f32", "f16", "bf16"),
            quantization=("ggml_q4_0", "ggml_q4_1", "ggml_q8_0"),
            attention=("causal",),
            cache_forms=(self.form(),) if self.config else (),
            tensor_formats=("f32",),
            parallelism=("layers",),
            sampler="canonical",
            prompt="ids",
            streaming=True,
            batch_max=self.counts["n_seq_max"],
            band=self.band(),
            activations="ggml_q8_0" if self.weights.startswith("ggml_q") else "",
            batch_invariant=own and (self.has_one_kernel() or self.counts["threads"] == 1),
            chunk_invariant=own and self.has_one_kernel(),
            run_to_run=True,
            isolation="process",
            handled=HANDLED,
        )

    def has_one_kernel(self) -> bool:
        """Flash attention over F32 or F16 rows has a tiled kernel for long prefills and another for short ones."""
        return self.chosen["flash_attention"] == "off" or all(
            ELEMENTS[self.chosen[name]].block > 1 for name in ("kv_k", "kv_v")
        )

    def variant(self) -> str:
        for variant in VARIANTS:
            if read_options(variant.options)[0] == self.chosen:
                return variant.name
        return "" if read_options({})[0] == self.chosen else "custom"

    def band(self) -> Any:
        """The coarsest of cache, attention kernel and weights: ggml multiplies F16 weights with F16 activations."""
        cache = [CACHE_BAND[self.chosen["kv_k"]], CACHE_BAND[self.chosen["kv_v"]]]
        kernel = "x16" if self.chosen["flash_attention"] == "on" else "x32"
        weights = "x16" if self.weights in ("f16", "bf16") else "q8" if self.weights.startswith("ggml_q") else "x32"
        return max([*cache, kernel, weights], key=BANDS.index)

    def form(self) -> CacheForm:
        """The native form. Pairing 0 is ggml's NORM (interleaved), 2 its NEOX (half)."""
        config = self.model_config()
        kind = int(self.engine.api.llama_model_rope_type(self.whole().model))
        if kind not in (0, 2):
            raise refuse("zg/backend/not-serving", "rope type", kind, "0 or 2")
        return CacheForm(
            k=element_form(self.chosen["kv_k"], key_rotation(config.head_dim) if self.rotates else 0),
            v=element_form(self.chosen["kv_v"], value_rotation(config.head_dim) if self.rotates else 0),
            pairing="interleaved" if kind == 0 else "half",
        )

    def can_serve(self, config: ModelConfig, weights: str) -> Serve:
        """Any weights: what is not GGUF is written as an F32 GGUF. A block of a quantised cache lies in one head."""
        reasons: list[str] = []
        if config.family not in FAMILIES:
            reasons.append(f"family: got {config.family}, wanted one of {', '.join(FAMILIES)}")
        if config.head_dim % 2:
            reasons.append(f"head_dim: got {config.head_dim}, wanted an even number")
        if config.kv_head_count < 1 or config.head_count % config.kv_head_count:
            reasons.append(f"kv_head_count: got {config.kv_head_count}, wanted a divisor of {config.head_count}")
        if config.family == "qwen2" and config.head_count * config.head_dim != config.hidden_size:
            wanted = f"{config.hidden_size} / {config.head_count}"
            reasons.append(f"head_dim: got {config.head_dim}, wanted {wanted} for qwen2")
        for name in (self.chosen["kv_k"], self.chosen["kv_v"]):
            if config.head_dim % ELEMENTS[name].block:
                reasons.append(f"head_dim: got {config.head_dim}, wanted a multiple of 32 for a {name} cache")
        return Serve(tuple(dict.fromkeys(reasons)))

    def load(self, bundle: ModelBundle) -> None:
        """Load a GGUF as it is, or write one of F32 from another form into a private folder (kept until shutdown)."""
        if self.config is not None:
            detail = "a model is loaded already; start a worker for another"
            raise LocalProtocolError("zg/backend/bad-request", detail, "load")
        weights = bundle.descriptor().weights
        if reasons := self.can_serve(bundle.config, weights).reasons:
            raise LocalProtocolError("zg/backend/not-serving", "; ".join(reasons), "model")
        self.scratch = tempfile.TemporaryDirectory(prefix="zg-llama-")
        if bundle.form == "gguf":
            self.path, self.weights = bundle.path, weights
        else:
            self.path, self.weights = self.write_gguf(bundle), "f32"
        config, self.rotates = bundle.config, rotation_enabled(os.environ)
        context = self.counts["n_ctx"] or CONTEXT_DEFAULT_MAX
        self.settings = Settings(
            k=self.chosen["kv_k"],
            v=self.chosen["kv_v"],
            flash_attention=self.chosen["flash_attention"] == "on",
            context=min(context, config.context_length),
            sessions=self.counts["n_seq_max"],
            threads=self.counts["threads"],
        )
        stage = Stage(self.engine, self.path, self.settings)
        got = (stage.layer_count, stage.hidden_size, stage.vocab_size)
        wanted = (config.layer_count, config.hidden_size, config.vocab_size)
        if got != wanted:
            stage.free()
            raise refuse("zg/llama/load-failed", "layers, hidden size, vocabulary", got, wanted)
        self.config = config
        self.stages[LayerRange(0, config.layer_count)] = stage

    def write_gguf(self, bundle: ModelBundle) -> Path:
        from zeitgeist.models.to_gguf import write_gguf

        path = self.folder() / "model.gguf"
        write_gguf(bundle, path, "f32")
        return path

    def folder(self) -> Path:
        assert self.scratch is not None, "load makes the folder"
        return Path(self.scratch.name)

    def tokenize(self, text: str) -> list[int]:
        """Ids by llama.cpp's tokenizer: no BOS, special-token strings are plain text."""
        return tokenize(self.engine.api, self.whole().vocab, text)

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Exact bytes of ids, special tokens as their text."""
        self.check_ids(ids)
        return detokenize(self.engine.api, self.whole().vocab, ids)

    def whole(self) -> Stage:
        return self.stage(LayerRange(0, self.model_config().layer_count))

    def stage(self, layers: LayerRange) -> Stage:
        """The stage's own model and context: layers in a GGUF sliced from the loaded one, made when first asked for."""
        if layers not in self.stages:
            assert self.path is not None and self.settings is not None, "a stage is asked for after load"
            path = self.folder() / f"layers-{layers.first}-{layers.stop}.gguf"
            write_slice(self.path, path, layers.first, layers.stop)
            capture = () if self.is_last(layers) else (layers.stop - layers.first - 1,)
            self.stages[layers] = Stage(self.engine, path, self.settings, capture)
            path.unlink()  # llama.cpp has it mapped or copied; the space is given back when the stage is freed
        return self.stages[layers]

    def new_cache(self, layers: LayerRange) -> Slot:
        stage = self.stage(layers)
        return Slot(stage, stage.take_sequence())

    def copy_cache(self, cache: Slot) -> Slot:
        # By its state, not by llama_memory_seq_cp: across streams that copies only at the next decode, and an import
        # into the source before then would be what the copy gets.
        blob = cache.stage.read_state(cache.sequence)
        return self.filled(cache.stage, blob)

    def filled(self, stage: Stage, blob: bytes | memoryview) -> Slot:
        slot = Slot(stage, stage.take_sequence())
        try:
            stage.write_state(slot.sequence, blob)
        except BaseException:
            stage.give_sequence(slot.sequence)
            raise
        return slot

    def crop_cache(self, session: ArraySession, position_count: int) -> None:
        config, slot = self.model_config(), session.cache
        slot.stage.crop(slot.sequence, position_count)
        if slot.sequence in slot.stage.tainted:
            slot.stage.wipe(slot.sequence, slot.stage.layout(config.kv_head_count, config.head_dim))

    def close(self, session: Session) -> None:
        """Free the session's cells for another."""
        held = self.live(session)
        slot: Slot = held.cache
        self.crop_cache(held, 0)
        super().close(session)
        slot.stage.give_sequence(slot.sequence)

    def step(self, session: ArraySession, x: Sequence[int] | F32, rows: Rows) -> F32:
        slot: Slot = session.cache
        last = self.is_last(session.layers)
        parts: list[F32] = []
        try:
            for start in range(0, len(x), BATCH):
                part = x[start : start + BATCH]
                first = session.position_count + start
                wanted: Rows = rows if rows != "last" or start + BATCH >= len(x) else "none"
                # every row is asked for when hidden rows are wanted: the last layer drops rows without logits
                logits = slot.stage.run(
                    [slot.sequence] * len(part), range(first, first + len(part)), part, wanted if last else "all"
                )
                layer = session.layers.stop - session.layers.first - 1
                parts.append(logits if last else slot.stage.hidden_rows(layer, len(part)))
        except BaseException:
            slot.stage.crop(slot.sequence, session.position_count)
            raise
        return np.concatenate(parts)

    def step_batch(self, sessions: Sequence[ArraySession], ids: Sequence[int]) -> F32:
        stage = self.whole()
        # Ascending sequences: llama.cpp puts only consecutive streams into one graph.
        order = sorted(range(len(sessions)), key=lambda row: sessions[row].cache.sequence)
        try:
            logits = stage.run(
                [sessions[row].cache.sequence for row in order],
                [sessions[row].position_count for row in order],
                [ids[row] for row in order],
                "all",
            )
        except BaseException:
            for session in sessions:
                stage.crop(session.cache.sequence, session.position_count)
            raise
        result = np.empty_like(logits)
        result[order] = logits
        return result

    def read_cache(self, session: ArraySession) -> tuple[CacheForm, list[Any], list[Any]]:
        config, slot = self.model_config(), session.cache
        layout = slot.stage.layout(config.kv_head_count, config.head_dim)
        k, v = parse(slot.stage.read_state(slot.sequence), layout, session.position_count)
        return self.form(), k, v

    def write_cache(self, layers: LayerRange, cache: CacheArrays) -> Slot:
        config, stage = self.model_config(), self.stage(layers)
        assert self.settings is not None
        if cache.position_count > self.settings.context:
            raise LocalProtocolError(
                "zg/backend/context-full", f"{cache.position_count} tokens, room for {self.settings.context}", "cache"
            )
        layout = stage.layout(config.kv_head_count, config.head_dim)
        for element, rows in (*((layout.k, k) for k in cache.k), *((layout.v, v) for v in cache.v)):
            wanted = (np.dtype(element.dtype), (cache.position_count, *layout.row_shape(element)))
            if (rows.dtype, rows.shape) != wanted:
                raise LocalProtocolError(
                    "zg/backend/bad-request", f"got {rows.dtype} {rows.shape}, wanted {wanted[0]} {wanted[1]}", "cache"
                )
        return self.filled(stage, build(cache.k, cache.v, layout, cache.position_count, 0))

    def check_room(self, session: ArraySession, count: int) -> None:
        assert self.settings is not None
        room = self.settings.context - session.position_count
        if count > room:
            raise LocalProtocolError("zg/backend/context-full", f"{count} more tokens, room for {room}", "ids")

    def map_error(self, error: BaseException) -> tuple[str, str]:
        """Our own errors keep their id; llama.cpp's have none, so its last log line is added."""
        if isinstance(error, ZeitgeistError):
            return error.id, str(error)
        first = (str(error).splitlines() or [""])[0][:200]
        said = f"; llama.cpp: {self.engine.last_words()}" if self.engine.log else ""
        return "zg/backend/failed", f"{type(error).__name__}: {first}{said}"

    def shutdown(self) -> None:
        """Free contexts, models and the private folder. The library stays mapped: a process keeps the one it chose."""
        for stage in self.stages.values():
            stage.free()
        self.stages, self.config = {}, None
        if self.scratch is not None:
            self.scratch.cleanup()
            self.scratch = None


def element_form(name: str, rotation: int) -> ElementForm:
    if ELEMENTS[name].block == 1:
        return ElementForm(dtype=name)
    return ElementForm(dtype="", quant=f"ggml_{name}", hadamard=rotation)


def key_rotation(head_dim: int) -> int:
    """Block of the rotation of quantised keys: the largest power of two from 64 on that divides head_dim, or 0."""
    return head_dim & -head_dim if value_rotation(head_dim) else 0


def value_rotation(head_dim: int) -> int:
    """Block of the rotation of quantised values: 64 or 0."""
    return 64 if head_dim % 64 == 0 else 0


def rotation_enabled(environment: Mapping[str, str]) -> bool:
    """llama.cpp reads its switch when a context is made, as C's atoi does: leading digits, else 0."""
    number = re.match(r"\s*[+-]?\d+", environment.get("LLAMA_ATTN_ROT_DISABLE", ""))
    return number is None or int(number[0]) == 0
