"""One GGUF in llama.cpp: model, context, its sequences, batches in, logits or hidden rows out, state of a sequence.

Law: no llama.cpp call is made with an argument that could trip one of its asserts: counts, positions and sequence ids
come from here, never from outside. A context has `n_seq_max` streams of `n_ctx` cells, one for each session
(`kv_unified` off: a shared buffer makes a row depend on its neighbours). Numbers are copied out before the next call.
"""

import ctypes
import os
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zeitgeist.backends.llama_blob import ELEMENTS, BlobLayout, build
from zeitgeist.backends.llama_library import Engine
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError, refuse

__all__ = ["BATCH", "Settings", "Stage"]

F32 = NDArray[np.float32]

BATCH = 512
"""Tokens of one llama_decode (n_batch and n_ubatch): llama.cpp's own n_ubatch; a cancel waits for at most one."""

STATE_VERSION = 3
"""Of the sequence state that `llama_blob` knows."""

CONTEXT_CELLS = 256
"""llama.cpp rounds the cells of a stream up to a multiple of this."""


@dataclass(frozen=True)
class Settings:
    """Options of a context. k, v: names in `llama_blob.ELEMENTS`; context: tokens of a session; sessions: n_seq_max."""

    k: str
    v: str
    flash_attention: bool
    context: int
    sessions: int
    threads: int = 1


class Stage:
    """A loaded GGUF, whole or sliced. capture: the layers whose output is wanted, numbered within this file."""

    def __init__(self, engine: Engine, path: Path, settings: Settings, capture: Sequence[int] = ()) -> None:
        self.engine, self.api, self.settings = engine, engine.api, settings
        self.model: Any = None
        self.context: Any = None
        self.batches: dict[bool, Any] = {}
        self.captured: dict[str, list[F32]] = {f"l_out-{layer}": [] for layer in capture}
        self.free_sequences = list(range(settings.sessions))
        self.tainted: set[int] = set()
        try:
            self.model = self.load_model(path)
            self.vocab = self.api.llama_model_get_vocab(self.model)
            self.vocab_size = int(self.api.llama_vocab_n_tokens(self.vocab))
            self.hidden_size = int(self.api.llama_model_n_embd(self.model))
            self.layer_count = int(self.api.llama_model_n_layer(self.model))
            self.context = self.make_context(bool(capture))
            self.memory = self.api.llama_get_memory(self.context)
            self.check_state_version()
        except BaseException:
            self.free()
            raise

    def load_model(self, path: Path) -> Any:
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.check_tensors = True
        self.engine.log.clear()
        model = self.api.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise RemoteProtocolError("zg/llama/load-failed", f"llama.cpp says: {self.engine.last_words()}", path.name)
        return model

    def make_context(self, captures: bool) -> Any:
        params = self.api.llama_context_default_params()
        settings = self.settings
        params.n_ctx = settings.sessions * (-(-settings.context // CONTEXT_CELLS) * CONTEXT_CELLS)
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = settings.sessions
        params.n_outputs_max_per_seq = BATCH
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = int(settings.flash_attention)
        params.type_k, params.type_v = ELEMENTS[settings.k].ggml_type, ELEMENTS[settings.v].ggml_type
        params.offload_kqv = params.op_offload = params.kv_unified = False
        if captures:
            self.observer = self.api.ggml_backend_sched_eval_callback(self.observe)  # held: C keeps only the address
            params.cb_eval = self.observer
        self.engine.log.clear()
        context = self.api.llama_init_from_model(self.model, params)
        if not context:
            raise RemoteProtocolError("zg/llama/load-failed", f"llama.cpp says: {self.engine.last_words()}", "context")
        return context

    def check_state_version(self) -> None:
        """The version stands only in the file form of a state: write an empty one and read it."""
        with tempfile.TemporaryDirectory(prefix="zg-llama-") as folder:
            path = Path(folder) / "state"
            self.api.llama_state_seq_save_file(self.context, os.fsencode(path), 0, None, 0)
            head = path.read_bytes()[:8] if path.exists() else b""
        got = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
        if got != (0x67677371, STATE_VERSION):
            raise refuse("zg/llama/library-unknown", "state version", got[1], STATE_VERSION)

    def layout(self, kv_head_count: int, head_dim: int) -> BlobLayout:
        """Layout of this context's sequence states."""
        settings = self.settings
        return BlobLayout(
            stream_count=settings.sessions,
            v_transposed=not settings.flash_attention,
            layer_count=self.layer_count,
            kv_head_count=kv_head_count,
            head_dim=head_dim,
            k=ELEMENTS[settings.k],
            v=ELEMENTS[settings.v],
        )

    def take_sequence(self) -> int:
        """The lowest free sequence; consecutive ones share a batch, so low numbers are best."""
        if not self.free_sequences:
            count = self.settings.sessions
            raise LocalProtocolError("zg/llama/sessions-full", f"{count} sessions are open", "n_seq_max")
        self.free_sequences.sort()
        return self.free_sequences.pop(0)

    def give_sequence(self, sequence: int) -> None:
        """Forget the sequence's cells."""
        self.api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        self.free_sequences.append(sequence)

    def crop(self, sequence: int, position_count: int) -> None:
        """Forget the cells from position_count on."""
        if not self.api.llama_memory_seq_rm(self.memory, sequence, position_count, -1):
            raise ZeitgeistError("zg/backend/failed", "llama_memory_seq_rm refused", "truncate")

    def wipe(self, sequence: int, layout: BlobLayout) -> None:
        """Overwrite the cells that the sequence does not hold. Without it a NaN in a freed cell comes back: llama.cpp
        masks such a cell by a weight of 0, and 0 · NaN is NaN."""
        held = self.read_state(sequence)
        self.crop(sequence, 0)
        cells = -(-self.settings.context // CONTEXT_CELLS) * CONTEXT_CELLS
        zeros = [
            [np.zeros((cells, *layout.row_shape(element)), element.dtype)] * self.layer_count
            for element in (layout.k, layout.v)
        ]
        self.write_state(sequence, build(zeros[0], zeros[1], layout, cells, sequence))
        self.crop(sequence, 0)
        self.write_state(sequence, held)
        self.tainted.discard(sequence)

    def run(
        self,
        sequences: Sequence[int],
        positions: Sequence[int],
        x: Sequence[int] | F32,
        rows: Literal["none", "last", "all"],
    ) -> F32:
        """One llama_decode of at most BATCH rows: ids, or hidden rows. Logits of the rows asked for, `[rows, vocab]`.

        `sequences[i]` and `positions[i]` place row i; positions follow on from what the sequence holds.
        """
        count = len(x)
        assert 0 < count <= BATCH and count == len(sequences) == len(positions)
        batch = self.fill(sequences, positions, x)
        flags = np.ctypeslib.as_array(batch.logits, (count,))
        flags[:] = rows == "all"
        flags[-1] = rows != "none"
        for parts in self.captured.values():
            parts.clear()
        self.engine.log.clear()
        status = self.api.llama_decode(self.context, batch)
        if status:
            detail = f"llama_decode gave {status}: {self.engine.last_words()}"
            raise ZeitgeistError("zg/backend/failed", detail, "llama_decode")
        wanted = int(np.count_nonzero(flags))
        if not wanted:
            return np.empty((0, self.vocab_size), np.float32)
        pointer = self.api.llama_get_logits(self.context)
        logits = np.ctypeslib.as_array(pointer, (wanted, self.vocab_size)).copy()
        if not np.isfinite(logits).all():
            self.tainted.update(sequences)
        return logits

    def fill(self, sequences: Sequence[int], positions: Sequence[int], x: Sequence[int] | F32) -> Any:
        hidden = isinstance(x, np.ndarray)
        if hidden not in self.batches:
            self.batches[hidden] = self.api.llama_batch_init(BATCH, self.hidden_size if hidden else 0, 1)
        batch = self.batches[hidden]
        count = len(x)
        batch.n_tokens = count
        if hidden:
            np.ctypeslib.as_array(batch.embd, (count, self.hidden_size))[:] = x
        else:
            np.ctypeslib.as_array(batch.token, (count,))[:] = x
        np.ctypeslib.as_array(batch.pos, (count,))[:] = positions
        np.ctypeslib.as_array(batch.n_seq_id, (count,))[:] = 1
        for row, sequence in enumerate(sequences):
            batch.seq_id[row][0] = sequence
        return batch

    def observe(self, tensor: int, ask: bool, user_data: object) -> bool:
        """Called by the scheduler before (ask) and after each graph node. True: "I want it", then "go on"."""
        name = self.c_function("ggml_get_name", ctypes.c_char_p)(ctypes.c_void_p(tensor)).decode()
        if ask or name not in self.captured:
            return name in self.captured or not ask
        byte_count = self.c_function("ggml_nbytes", ctypes.c_size_t)(ctypes.c_void_p(tensor))
        rows = np.empty(byte_count // 4, np.float32)
        data = rows.ctypes.data_as(ctypes.c_void_p)
        self.c_function("ggml_backend_tensor_get", None)(
            ctypes.c_void_p(tensor), data, ctypes.c_size_t(0), ctypes.c_size_t(byte_count)
        )
        self.captured[name].append(rows.reshape(-1, self.hidden_size))
        return True

    def c_function(self, name: str, result: Any) -> Any:
        """A ggml function of the same library, which the Python half does not declare."""
        function = getattr(self.engine.library, name)
        function.restype = result
        return function

    def hidden_rows(self, layer: int, count: int) -> F32:
        """Output of a captured layer in the last run, `[count, hidden]`, the residual stream before any norm."""
        rows = np.concatenate(self.captured[f"l_out-{layer}"])
        if rows.shape[0] != count:
            detail = f"layer {layer} gave {rows.shape[0]} rows, wanted {count}"
            raise ZeitgeistError("zg/backend/failed", detail, "l_out")
        return rows

    def read_state(self, sequence: int) -> memoryview:
        """The sequence as llama.cpp serialises it, in memory of its own."""
        size = int(self.api.llama_state_seq_get_size(self.context, sequence))
        buffer = (ctypes.c_uint8 * size)()
        written = int(self.api.llama_state_seq_get_data(self.context, buffer, size, sequence))
        if written != size:
            raise refuse("zg/llama/bad-blob", "length", written, size)
        return memoryview(buffer).cast("B")

    def write_state(self, sequence: int, blob: bytes | memoryview) -> None:
        """Put a state into an empty sequence; the engine must take every byte of it."""
        buffer = (ctypes.c_uint8 * len(blob)).from_buffer_copy(blob)
        self.engine.log.clear()
        taken = int(self.api.llama_state_seq_set_data(self.context, buffer, len(blob), sequence))
        if taken != len(blob):
            raise ZeitgeistError(
                "zg/llama/import-refused", f"took {taken} of {len(blob)} bytes: {self.engine.last_words()}", "cache"
            )

    def free(self) -> None:
        """Give everything back to llama.cpp. Idempotent."""
        for batch in self.batches.values():
            self.api.llama_batch_free(batch)
        self.batches = {}
        if self.context:
            self.api.llama_free(self.context)
        if self.model:
            self.api.llama_model_free(self.model)
        self.context = self.model = None
