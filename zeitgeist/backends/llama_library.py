"""Which llama.cpp runs here: where our build lies, choosing, loading, ABI check, digests of what was loaded (F8).

Law: one process holds one llama.cpp library. Two in one process abort as soon as a handle crosses. The Python half
(package `llama_cpp`) is used for its ctypes declarations only: its low-level module is imported without the package's
`__init__`, which would pull in a server. A library that it was not generated for is refused, not tried: a struct that
is one word off corrupts memory silently. Heavy: nothing is imported before `load`.
"""

import ctypes
import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from zeitgeist.backends.libraries import native_library
from zeitgeist.core.descriptors.backend import Library
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError, refuse

__all__ = [
    "CMAKE_FLAGS",
    "SDIST_SHA256",
    "SDIST_VERSION",
    "Engine",
    "engines_directory",
    "load",
    "own_build_directory",
]

SDIST_VERSION = "0.3.36"
"""Of llama-cpp-python; its sdist vendors the llama.cpp that its ctypes half was generated from."""

SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

CMAKE_FLAGS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=ON",
    "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "CMAKE_INSTALL_RPATH=" + ("@loader_path" if sys.platform == "darwin" else "$ORIGIN"),
    "GGML_RPC=ON",
    "GGML_NATIVE=OFF",  # one build for all CPUs of a kind, so that a certificate replays elsewhere
    "GGML_LLAMAFILE=OFF",  # its sgemm runs for batches only: with it a batch of 2 differs from two batches of 1
    "GGML_CCACHE=OFF",
    "GIT_EXE=OFF",
    "LLAMA_BUILD_COMMIT=0c1e57098",
    "LLAMA_BUILD_NUMBER=1",  # else CMake asks the repository around us
    "LLAMA_OPENSSL=OFF",
    "LLAMA_BUILD_COMMON=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_TOOLS=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",
)

LIBRARY_NAMES = ("libllama", "libggml", "libggml-base", "libggml-cpu", "libggml-rpc", "xllamacpp")

ABI_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_beta_slow": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "type_k": 1,
    "type_v": 1,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "n_samplers": 0,
}
"""`llama_context_default_params` as the declarations were generated. Any shift of a field moves one of these."""


def engines_directory() -> Path:
    """Where compiled engines are kept: `ZEITGEIST_ENGINES`, else `.engines` of the checkout, else the user's cache."""
    chosen = os.environ.get("ZEITGEIST_ENGINES", "")
    if chosen:
        return Path(chosen).absolute()
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return root / ".engines"
    return Path.home() / ".cache" / "zeitgeist" / "engines"  # not XDG_CACHE_HOME: a worker has one of its own


def own_build_directory() -> Path:
    """Folder of our build: named after the version and a digest of the flags, so that a new flag is a new build."""
    digest = hashlib.sha256("\n".join((SDIST_VERSION, SDIST_SHA256, *CMAKE_FLAGS)).encode()).hexdigest()[:12]
    return engines_directory() / f"llama.cpp-{SDIST_VERSION}-{digest}"


class Engine:
    """The loaded library: `api` is llama_cpp's low-level module, `log` the last lines llama.cpp printed."""

    def __init__(self, choice: str, api: Any, folder: Path) -> None:
        self.choice = choice
        self.folder = folder
        self.api = api
        self.library: ctypes.CDLL = api._lib
        self.log: list[str] = []
        self.log_callback = api.llama_log_callback(self.keep_line)  # held: ctypes does not keep it alive
        api.llama_log_set(self.log_callback, None)

    def keep_line(self, level: int, text: bytes | None, user_data: object) -> None:
        """Called by llama.cpp for each piece of log text; keeps errors, at most 50."""
        if level == 4 and text:
            self.log.append(text.decode("utf-8", "replace").strip())
            del self.log[:-50]

    def last_words(self) -> str:
        """What llama.cpp said last, in one line; its own return codes say little."""
        return " | ".join(self.log[-3:]) or "no message"

    def version(self) -> str:
        """llama.cpp's own word for its version, with the ggml commit when the build knows it."""
        return f"llama.cpp {self.text('llama_version')} ggml {self.text('ggml_version')} {self.text('ggml_commit')}"

    def text(self, function: str) -> str:
        """Result of a C function () -> char*, or "" when the library lacks it."""
        try:
            call = getattr(self.library, function)
        except AttributeError:
            return ""
        call.restype = ctypes.c_char_p
        return (call() or b"").decode()

    def libraries(self) -> tuple[Library, ...]:
        """The files of llama.cpp mapped into this process, with digests of their bytes."""
        found = (native_library(name, self.version(), name + ".", self.folder) for name in LIBRARY_NAMES)
        return tuple(library for library in found if library is not None)


LOADED: list[Engine] = []
"""None or one."""


def load(choice: str) -> Engine:
    """Load `own` (our build) or `stock` (the prebuilt xllamacpp wheel), once in a process.

    Errors: `zg/backend/not-installed`, and of `zg/llama/`: `library-missing`, `library-unknown`, `second-library`.
    """
    if LOADED:
        if LOADED[0].choice != choice:
            raise LocalProtocolError(
                "zg/llama/second-library", f"this process holds {LOADED[0].choice}, wanted {choice}", "library"
            )
        return LOADED[0]
    if choice == "own":
        directory = own_library()
        engine = Engine(choice, import_declarations(directory), directory)
    else:
        real = stock_library()
        with tempfile.TemporaryDirectory(prefix="zg-llama-stock-") as scratch:
            (Path(scratch) / "libllama.so").symlink_to(real)
            engine = Engine(choice, import_declarations(Path(scratch)), real.parent)
    check_abi(engine)
    engine.api.llama_backend_init()
    LOADED.append(engine)
    return engine


def own_library() -> Path:
    directory = own_build_directory() / "lib"
    if not (directory / "stamp.json").is_file():
        raise LocalProtocolError("zg/llama/library-missing", f"{directory} holds no build; run `make setup`", "library")
    return directory


def stock_library() -> Path:
    """The wheel's extension module exports the whole C API; `load` gives it the name that llama_cpp looks for."""
    spec = importlib.util.find_spec("xllamacpp")
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for place in places for path in sorted(Path(place).glob("xllamacpp*.so"))]
    if not found:
        detail = "the prebuilt wheel is absent: pip install 'zeitgeist[llama-stock]'"
        raise LocalProtocolError("zg/backend/not-installed", detail, "xllamacpp")
    return found[0].resolve()


def import_declarations(directory: Path) -> Any:
    """llama_cpp's low-level module, bound to the library in `directory`, tolerant of functions the library lacks."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or "llama_cpp" in sys.modules:
        detail = "the package is absent or was imported before us: pip install 'zeitgeist[llama]'"
        raise LocalProtocolError("zg/backend/not-installed", detail, "llama_cpp")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__spec__ = spec
    sys.modules["llama_cpp"] = package
    before = os.environ.get("LLAMA_CPP_LIB_PATH")
    os.environ["LLAMA_CPP_LIB_PATH"] = str(directory)
    try:
        extensions: Any = importlib.import_module("llama_cpp._ctypes_extensions")
        extensions.ctypes_function_for_shared_library = tolerant_binder
        return importlib.import_module("llama_cpp.llama_cpp")
    except (OSError, RuntimeError) as error:
        raise refuse("zg/llama/library-unknown", "library", error, "a llama.cpp that the loader accepts") from error
    finally:
        os.environ.pop("LLAMA_CPP_LIB_PATH")
        if before is not None:
            os.environ["LLAMA_CPP_LIB_PATH"] = before


def tolerant_binder(library: ctypes.CDLL) -> Any:
    """Like llama_cpp's own binder, but a missing symbol leaves a function that says so when it is called."""

    def bind(name: str, argtypes: list[Any], restype: Any, enabled: bool = True) -> Any:
        def decorate(declaration: Any) -> Any:
            try:
                function = getattr(library, name)
            except AttributeError:
                return absent(name)
            function.argtypes = argtypes
            function.restype = restype
            return function if enabled else declaration

        return decorate

    return bind


def absent(name: str) -> Any:
    """Stands for a C function that the library does not have."""

    def call(*arguments: object) -> Any:
        raise ZeitgeistError("zg/llama/library-unknown", f"the library has no function {name}", "library")

    return call


def check_abi(engine: Engine) -> None:
    """Refuse a library whose structs are not those of the declarations, before any of them is written to."""
    params = engine.api.llama_context_default_params()
    for field, wanted in ABI_DEFAULTS.items():
        got = getattr(params, field)
        if got != wanted:
            raise refuse("zg/llama/library-unknown", f"llama_context_params.{field}", got, wanted)
    model = engine.api.llama_model_default_params()
    if model.n_gpu_layers != -1 or model.vocab_only or model.no_alloc or not model.use_extra_bufts:
        raise refuse("zg/llama/library-unknown", "llama_model_params", "other defaults", "those of " + SDIST_VERSION)
