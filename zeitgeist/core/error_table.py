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

MODEL: list[Row] = [
    ("zg/model/bad-config", "peer", True, "a field of the model's configuration is missing, of the wrong type or contradicts "
     "another", "repair the file that the message names, or fetch the model again"),
    ("zg/model/bad-gguf", "peer", True, "the GGUF file is damaged: a count, length, offset or type in it cannot be right",
     "fetch the file again; compare its digest with the publisher's"),
    ("zg/model/bad-shape", "peer", True, "a tensor has another shape or element type than the configuration demands",
     "the weights belong to another model, or the configuration does"),
    ("zg/model/bad-tokenizer", "peer", True, "the tokenizer's data contradict themselves or are incomplete",
     "fetch the tokenizer files again"),
    ("zg/model/cannot-express", "caller", True, "the target format has no way to say this about the model",
     "convert to another format; the message names what cannot be said"),
    ("zg/model/not-found", "caller", True, "there is no file or directory of this name", "check the path after --model"),
    ("zg/model/not-finite", "peer", True, "a weight is NaN or infinite", "the file is damaged or the training diverged"),
    ("zg/model/refused-format", "caller", True, "files of this kind can run code or are not weights that we read",
     "use the SafeTensors or GGUF files that the publisher offers"),
    ("zg/model/tensor-missing", "peer", True, "a tensor that the configuration demands is not in the files",
     "fetch the model again; with shards, all of them"),
    ("zg/model/tensor-unexpected", "peer", True, "the files hold a tensor that this architecture does not have",
     "the model has a part that we do not know, so its numbers would be wrong"),
    ("zg/model/unknown-architecture", "peer", True, "the architecture is not one whose arithmetic we know",
     "use a llama, qwen2 or qwen3 model"),
    ("zg/model/unknown-tokenizer", "peer", True, "the tokenizer is of a kind or has a part that we do not know",
     "use a model with byte-level BPE; the message names what is unknown"),
    ("zg/model/unreadable", "host", True, "the operating system did not let us read the file", "the reason stands in the message"),
    ("zg/model/unsupported", "peer", True, "the model uses a feature whose arithmetic we do not know",
     "it is refused by name, never guessed; use a model without it"),
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

CERTIFY: list[Row] = [
    ("zg/certify/bad-certificate", "peer", True, "the certificate cannot be read",
     "get the file again from its issuer; a certificate is one DSSE envelope in JSON"),
    ("zg/certify/bad-key", "caller", True, "the key file cannot be read as an Ed25519 key in PEM",
     "name a PEM file with --key, or let zg-certify make one"),
    ("zg/certify/bad-profile", "caller", True, "the tolerance profile is damaged or has no such key",
     "use the profile that came with the suite; every number needs value, unit and source"),
    ("zg/certify/expired", "peer", True, "the certificate is past its not-after date", "certify the subject again"),
    ("zg/certify/harness", "us", False, "the suite itself failed; this says nothing about the subject",
     "report it with the command and the log printed beside it"),
    ("zg/certify/no-model", "caller", True, "there is no model at this path",
     "name a Hugging Face directory or a GGUF file with --model"),
    ("zg/certify/no-space", "host", True, "the results cannot be written: the disk is full",
     "free some space or name another directory with --out"),
    ("zg/certify/out-dir", "caller", True, "the results directory cannot be written",
     "name a directory you may write with --out"),
    ("zg/certify/suite-version", "peer", True, "the certificate is from a suite version that this one does not read",
     "verify it with a suite of its own version, or certify again"),
    ("zg/certify/tampered", "peer", True, "a part of the certificate does not agree with the rest",
     "do not trust it; get it again from its issuer"),
    ("zg/certify/unknown", "caller", True, "there is no check, error or subject of this name",
     "`zg-certify list` and `zg-certify subjects` show the names"),
    ("zg/certify/usage", "caller", True, "the command line asks for something that does not exist",
     "read `zg-certify --help`"),
]

LLAMA: list[Row] = [
    ("zg/llama/bad-blob", "host", False, "the engine's state of a sequence is not in the layout that we know",
     "a defect or another llama.cpp: rebuild it with `python tools/build_llama.py --force`"),
    ("zg/llama/import-refused", "host", True, "llama.cpp did not take the cache", "its message stands in the detail"),
    ("zg/llama/library-missing", "host", True, "our build of llama.cpp is not there",
     "run `make setup`, or `python tools/build_llama.py`; ZEITGEIST_ENGINES names another place"),
    ("zg/llama/library-unknown", "host", True, "the library is not the llama.cpp that our declarations were made from",
     "use the build of `python tools/build_llama.py`, or xllamacpp 2026.9.11063"),
    ("zg/llama/load-failed", "peer", True, "llama.cpp refused the model file", "its message stands in the detail"),
    ("zg/llama/second-library", "caller", True, "one process cannot hold two llama.cpp libraries",
     "start a worker for each library"),
    ("zg/llama/sessions-full", "caller", True, "all sequences of the context are in use",
     "close a session, or start with a larger option n_seq_max"),
]

CONVERT: list[Row] = [
    ("zg/convert/bad-form", "caller", True, "this form does not fit this head: pairs or blocks do not divide head_dim",
     "choose a form whose blocks divide head_dim"),
    ("zg/convert/no-path", "caller", True, "no chain of steps leads from one form to the other",
     "choose another form; the message names what blocks the way"),
    ("zg/convert/not-exact", "caller", True, "the two schemas do not hold the same numbers, so repacking would lose some",
     "convert through float32 instead, and report the loss"),
    ("zg/convert/overflow", "peer", True, "a number is too large for the target's element or scale",
     "keep a wider form; such numbers are usually a fault of the model or the cache"),
]

FORMAT: list[Row] = [
    ("zg/format/bad-digest", "peer", True, "a digest is not `sha256:` or `blake3:` and 64 lower-case hex digits",
     "send the digest as the record's maker printed it"),
    ("zg/format/bad-token-id", "peer", True, "a token id does not fit in int32", "look at the tokenizer that made the ids"),
    ("zg/format/unknown-dtype", "peer", True, "no element type has this name", "use a name of docs/spec/precision.md"),
    ("zg/format/unknown-schema", "peer", True, "no quantisation schema has this name or these parameters",
     "use a name that the message lists"),
    ("zg/format/unsupported-conversion", "caller", True, "no conversion is declared between these two",
     "convert by way of f32, or ask for a declared pair"),
]

TENSOR: list[Row] = [
    ("zg/tensor/bad-chunk", "peer", True, "a chunk's index, offset or length is not what the envelope implies",
     "send the chunks that the envelope describes"),
    ("zg/tensor/bad-envelope", "peer", True, "an envelope contradicts itself: shape, layout, length and chunks must agree",
     "make the envelope with the sender's library; the message names the field"),
    ("zg/tensor/bad-layout", "caller", True, "the array and its declared layout do not agree",
     "declare the layout that the bytes have; shape never tells it"),
    ("zg/tensor/corrupt-chunk", "peer", True, "a chunk's bytes do not have its checksum", "send that chunk again"),
    ("zg/tensor/corrupt-content", "peer", True, "all chunks verify, but the whole does not have the envelope's digest",
     "send the tensor again; two chunks of one sender disagree with its envelope"),
    ("zg/tensor/foreign-chunk", "peer", True, "the chunk belongs to another tensor", "send it on the stream of its tensor"),
    ("zg/tensor/incomplete", "peer", False, "chunks are still missing", "send the chunks that the message lists"),
    ("zg/tensor/too-large", "peer", True, "the envelope claims more than this receiver takes",
     "send it in parts, or raise the receiver's limit"),
]

VERSION: list[Row] = [
    ("zg/version/mismatch", "peer", True, "a schema version is not ours; versions match exactly",
     "run the same release on both sides; the message names both versions"),
]

WIRE: list[Row] = [
    ("zg/wire/bad-header", "peer", True, "a frame's header has a field outside its range", "look at the peer's encoder"),
    ("zg/wire/bad-header-checksum", "peer", True, "a frame's header was damaged", "connect again; look at the link"),
    ("zg/wire/bad-magic", "peer", True, "the bytes are not a Zeitgeist frame", "check what listens on that address"),
    ("zg/wire/bad-payload-checksum", "peer", True, "a frame's payload was damaged", "connect again; look at the link"),
    ("zg/wire/bad-record", "peer", True, "bytes do not decode as the record they should be",
     "the message names the record and the field; look at the peer's encoder"),
    ("zg/wire/frame-too-large", "peer", True, "a payload is longer than its channel allows", "send it in chunks"),
    ("zg/wire/not-canonical", "peer", True, "the bytes decode, but are not the one encoding of what they say",
     "encode with sorted keys, shortest forms and no duplicate keys"),
    ("zg/wire/record-too-large", "peer", True, "a record is longer or deeper than its limit",
     "send less in one record; docs/spec/limits.md states the bounds"),
    ("zg/wire/truncated", "peer", False, "the stream ended inside a frame", "connect again and resume"),
    ("zg/wire/unknown-channel", "peer", True, "a frame names a channel that does not exist", "look at the peer's version"),
    ("zg/wire/unknown-flags", "peer", True, "a frame sets flags that have no meaning", "look at the peer's version"),
]

CACHE: list[Row] = [
    ("zg/cache/adapter", "peer", True,
     "the cache was made with another adapter (LoRA), or with one where none is loaded",
     "recompute the cache, or load the same adapter"),
    ("zg/cache/bad-chunk", "peer", True, "a chunk of a streamed cache does not have its checksum",
     "the sender repeats the chunk that the message names"),
    ("zg/cache/bad-metadata", "peer", True, "the descriptor of the cache is missing, damaged or not canonical",
     "export the cache again"),
    ("zg/cache/dtype", "peer", True, "the element type is unknown, or not the one that the form says",
     "export in a form that the receiver lists in `cache_forms`"),
    ("zg/cache/extension", "peer", True, "the cache carries a critical extension that we do not know",
     "export without this extension"),
    ("zg/cache/format-version", "peer", True, "the cache has another version than ours",
     "export it again with the same version of zeitgeist"),
    ("zg/cache/hadamard", "peer", True, "the Hadamard rotation of the stored blocks is not what the receiver takes",
     "convert the cache, or export with the rotation the receiver lists"),
    ("zg/cache/head-dim", "peer", True,
     "the heads have another width than the model's", "check that the models are the same"),
    ("zg/cache/hybrid", "peer", True, "the cache holds hybrid (recurrent) state, which we do not transfer",
     "recompute the cache on the receiver"),
    ("zg/cache/incomplete", "peer", True, "the stream ended, or was asked for, before its last chunk had come",
     "ask for the missing chunks, or recompute"),
    ("zg/cache/kv-heads", "peer", True, "the cache has more or fewer KV heads than the model",
     "check that the models are the same; a slice of heads cannot be imported"),
    ("zg/cache/latent", "peer", True, "the cache holds latent (MLA) parts, which we do not transfer",
     "recompute the cache on the receiver"),
    ("zg/cache/layer-digest", "peer", True, "a layer's rows are not the rows that the descriptor was made for",
     "fetch the layer again; swapped heads, swapped K and V and flipped bits look like this"),
    ("zg/cache/layer-range", "peer", True, "the cache holds other layers than the receiver runs",
     "export the layers of the receiver's stage"),
    ("zg/cache/made-by", "peer", True, "`made_by` is too long or not printable", "shorten it; it is text for people"),
    ("zg/cache/missing-layer", "peer", True, "a layer's K or V is not in the file", "export the cache again"),
    ("zg/cache/model", "peer", True,
     "the cache was made by another model", "recompute the cache; only the same weights may share one"),
    ("zg/cache/not-finite", "peer", True,
     "the cache holds NaN or infinity", "recompute the cache; its maker overflowed"),
    ("zg/cache/padding", "peer", True, "the payload has fewer rows than the descriptor calls valid",
     "export the cache again"),
    ("zg/cache/pairing", "peer", True, "rotary pairs lie in another order than the receiver takes",
     "convert the cache (`convert.path`); the step is exact"),
    ("zg/cache/position", "peer", True, "the cache starts or ends at another position than the receiver continues from",
     "check which tokens were sent; padding rows do not count as tokens"),
    ("zg/cache/quant", "peer", True, "the block quantisation is unknown, or not one the receiver takes",
     "dequantise before sending, or use a schema that the receiver lists"),
    ("zg/cache/rope", "peer", True, "the keys were rotated with other rotary constants than the model's",
     "check rope_theta and rope_scaling on both sides: an engine may ignore its configuration"),
    ("zg/cache/rotation-state", "peer", True,
     "the keys are before rotation where the receiver takes them after, or the reverse",
     "export keys after rotation"),
    ("zg/cache/shape", "peer", True, "an array does not have the shape and dtype that the descriptor says",
     "export the cache again; heads may be missing"),
    ("zg/cache/tokenizer", "peer", True,
     "the cache belongs to another tokenizer", "recompute the cache from the token ids"),
    ("zg/cache/tokens", "peer", True, "the cache holds other tokens than those to be continued",
     "recompute, or import only for the very same prompt"),
    ("zg/cache/too-large", "peer", True, "the cache needs more memory than the receiver is ready to hold",
     "send fewer tokens or a narrower form, or raise the receiver's limit"),
    ("zg/cache/unknown-tensor", "peer", True, "the file has a tensor that the descriptor does not know",
     "export the cache again"),
    ("zg/cache/window", "peer", True, "sliding window or attention sinks differ from the model's",
     "check that the models are the same"),
]

ROWS: list[Row] = [*BACKEND, *CACHE, *CERTIFY, *CONVERT, *FORMAT, *LLAMA, *MODEL, *ORACLE, *SAFETENSORS, *SAMPLING, *TENSOR, *VERSION, *WIRE, *WORKER]
