"""The rows of the error registry: (id, fault, definite, cause, remedy). Ids are never reused; add, do not rename.

One file, so that two areas cannot take one id. Grouped by area, alphabetical inside a group.
"""

from typing import Literal

__all__ = ["ROWS"]

Row = tuple[str, Literal["peer", "caller", "host", "us"], bool, str, str]

BACKEND: list[Row] = [
    ("zg/backend/bad-request", "caller", True, "ids, positions, layers or sessions do not fit the model",
     "send what the message asks for"),
    ("zg/backend/cancelled", "caller", False, "the call was cancelled between two prefill chunks",
     "send it again if it is still wanted"),
    ("zg/backend/context-full", "caller", True, "the session would hold more tokens than the model or engine can",
     "truncate the session, or shorten the prompt"),
    ("zg/backend/bad-argument", "caller", True, "an argument of a backend call is out of its range",
     "the message names the argument, what it was and what would be right"),
    ("zg/backend/bad-result", "host", False, "the adapter returned an array of another shape or type than the contract says",
     "a defect of the adapter: run zg-certify on it"),
    ("zg/backend/conflict", "host", True, "two packages declare a backend of one name",
     "uninstall one of the packages that the message names"),
    ("zg/backend/failed", "host", False, "the engine raised an error of its own",
     "read the engine's message in the detail; repeat the command printed beside it"),
    ("zg/backend/not-installed", "host", True, "the engine's Python package cannot be imported",
     "install the extra that the message names, for instance: pip install 'zeitgeist[torch]'"),
    ("zg/backend/no-model", "caller", True, "the call needs a model and none is loaded", "load a model first"),
    ("zg/backend/no-such-session", "caller", True, "the session was closed or never opened", "open a session first"),
    ("zg/backend/not-serving", "caller", True, "the engine cannot run this model", "every reason stands in the message"),
    ("zg/backend/tokens-unknown", "caller", True, "the session ran on hidden rows whose token ids were never stated",
     "pass the ids beside the hidden rows; a cache without its tokens has no identity"),
    ("zg/backend/unknown", "caller", True, "no backend has this name",
     "`zg-certify subjects` lists built-in names, variants and entry points"),
    ("zg/backend/unsupported", "caller", True, "the backend does not claim this capability",
     "ask `describe` what it claims; pick a backend that claims it"),
]

SAFETENSORS: list[Row] = [
    ("zg/safetensors/bad-header", "peer", True, "the header is not one JSON object of tensors, or a key stands twice",
     "write the file again with its tool; the file is damaged or not SafeTensors"),
    ("zg/safetensors/bad-offsets", "peer", True, "tensors overlap, or bytes between them belong to none",
     "write the file again with its tool; the file is damaged"),
    ("zg/safetensors/bad-size", "peer", True, "a tensor's bytes do not equal its shape times its element size",
     "write the file again with its tool; the file is damaged"),
    ("zg/safetensors/header-too-long", "peer", True, "the first 8 bytes claim a header longer than the limit",
     "check that the file is SafeTensors at all"),
    ("zg/safetensors/no-such-tensor", "peer", True, "the file has no tensor of this name",
     "check that the file belongs to this model"),
    ("zg/safetensors/trailing-bytes", "peer", True, "bytes follow the last tensor", "fetch the file again"),
    ("zg/safetensors/truncated", "peer", True, "the file ends before its last tensor", "fetch the file again"),
    ("zg/safetensors/unknown-dtype", "peer", True, "the element type is not one that we know",
     "convert the tensors to one of the types that the message lists"),
    ("zg/safetensors/unreadable", "host", True, "the file cannot be opened", "check the path and its permissions"),
]

ORACLE: list[Row] = [
    ("zg/oracle/bad-file", "peer", True, "the oracle cannot read the model's files as what they claim to be",
     "make the model again with its tool; `zg-certify subjects` lists the forms"),
    ("zg/oracle/bad-request", "caller", True, "the oracle was asked for layers, tokens or a cache that the model lacks",
     "ask within the model's layers and vocabulary"),
    ("zg/oracle/unknown", "peer", True, "the oracle does not know this part of a model, and never guesses",
     "certify with a llama, qwen2 or qwen3 model; the message names what it met"),
]

SAMPLING: list[Row] = [
    ("zg/sampling/bad-logits", "peer", True, "logits are not a vector of numbers with at least one finite",
     "look at the engine that made them; NaN here is a numerical failure there"),
    ("zg/sampling/bad-params", "caller", True, "a sampling parameter lies outside its range",
     "send a value in the range that the message states"),
]

WORKER: list[Row] = [
    ("zg/worker/bad-bulk", "peer", True, "a shared array disagrees with its announced length, seals or digest",
     "the sender is defective or its memory is; the array was not used"),
    ("zg/worker/bad-request", "peer", True, "the worker could not read a request: unknown method, unknown field or a value "
     "of another type", "both sides must be of one version"),
    ("zg/worker/busy", "caller", True, "a call is still in progress on this worker", "take its result or cancel it first"),
    ("zg/worker/closed", "caller", True, "the worker was closed", "start another one"),
    ("zg/worker/crashed", "peer", False, "the worker process ended during a call",
     "the signal or exit code and the end of its output stand in the message"),
    ("zg/worker/lied", "peer", False, "the worker sent something that is not a frame, a reply or the answer of its call",
     "it was killed; run zg-certify on the backend"),
    ("zg/worker/start", "host", True, "the worker process could not be started", "the reason stands in the message"),
    ("zg/worker/timeout", "peer", False, "the worker did not answer in time and was killed",
     "raise the time-out if the engine is only slow"),
]

ROWS: list[Row] = [*BACKEND, *ORACLE, *SAFETENSORS, *SAMPLING, *WORKER]
