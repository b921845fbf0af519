"""A tiny synthetic engine: the next token is a function of the tokens before it, and is marked as synthetic (I11, V1).

Law: no arithmetic of a model, no state but the token ids of each job, so that any other such engine continues a prefix
in the same way. Every token carries `synthetic`; the backend's name is `synthetic`, which nothing chooses by default.
"""

import struct
from collections.abc import Sequence
from typing import Literal

import blake3

from sim.payloads import Payloads
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor, RopeConfig
from zeitgeist.core.descriptors.node import ModelOffer
from zeitgeist.core.effects import Compute, Computed, PayloadRef, TokenOut
from zeitgeist.core.formats.canonical import Record, digest, encode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import JobId, Real
from zeitgeist.core.wire.messages import Reason

__all__ = ["SYNTHETIC_MODEL", "Engine", "SyntheticToken", "descriptor", "offer", "reference_tokens"]

VOCABULARY = 256
CONTEXT = 8192


class SyntheticToken(Record, frozen=True, kw_only=True):
    """What a token's content holds: its id, its text, and the mark of every synthetic result."""

    id: int
    text: str
    synthetic: Literal[True] = True


class Job:
    """One job in the engine: what all its token ids so far lead to, and when to stop."""

    def __init__(self, ids: list[int], count_max: int, stop_ids: tuple[int, ...]) -> None:
        self.prefix = Prefix(ids)
        self.left = count_max
        self.stop_ids = stop_ids


class Prefix:
    """Token ids one after another, and the token that follows: a function of them all. No id is read twice."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.hasher = blake3.blake3(b"zg-synthetic\x00" + struct.pack(f"<{len(ids)}i", *ids))

    def advance(self) -> int:
        """The next token, which from now on is one of the ids."""
        token = self.hasher.digest(1)[0] % VOCABULARY
        self.hasher.update(token.to_bytes(4, "little"))
        return token


def reference_tokens(ids: Sequence[int], count: int, stop_ids: tuple[int, ...] = ()) -> list[int]:
    """What every synthetic engine gives after ids: the oracle of simulated completions."""
    prefix, made = Prefix(ids), list[int]()
    while len(made) < count:
        made.append(prefix.advance())
        if made[-1] in stop_ids:
            break
    return made


def prompt_ids(kind: Literal["text", "ids"], data: bytes | memoryview) -> list[int]:
    """The prompt as ids: of text its UTF-8 bytes."""
    raw = bytes(data)
    if kind == "text":
        return list(raw)
    return list(struct.unpack(f"<{len(raw) // 4}i", raw))


class Engine:
    """One engine over the payloads of its worker. Everything is answered at once; the driver says how long it took."""

    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads
        self.jobs: dict[JobId, Job] = {}

    def compute(self, call: Compute) -> Computed:
        """The answer of one call."""
        match call.op:
            case "prompt":
                return self.prompt(call)
            case "decode":
                return Computed(tokens=tuple(self.step(job) for job in call.jobs))
            case "close":
                for job in call.jobs:
                    self.jobs.pop(job, None)
                return Computed()
            case "request":
                detail = "the synthetic engine answers jobs, no calls"
                return Computed(refusal=Reason(id="zg/backend/unsupported", detail=detail, field="request"))

    def prompt(self, call: Compute) -> Computed:
        """Open a job with its prompt."""
        assert call.assign is not None and call.content is not None, "a prompt comes with its assignment and content"
        assign = call.assign
        ids = prompt_ids(assign.prompt, self.payloads.get(call.content.handle))
        if len(ids) + assign.token_count_max > CONTEXT:
            detail = f"got {len(ids)} + {assign.token_count_max} tokens, wanted at most {CONTEXT}"
            return Computed(refusal=Reason(id="zg/backend/context-full", detail=detail, field="prompt"))
        self.jobs[JobId(assign.job)] = Job(ids, assign.token_count_max, assign.stop_ids)
        return Computed(prompt_count=len(ids))

    def step(self, name: JobId) -> TokenOut:
        """The next token of a job."""
        job = self.jobs.get(name)
        if job is None:
            reason = Reason(id="zg/backend/no-such-session", detail=f"no job {name} here", field="job")
            return TokenOut(job=name, last="failed", refusal=reason)
        token = job.prefix.advance()
        job.left -= 1
        content: PayloadRef = self.payloads.put(encode(SyntheticToken(id=token, text=f"<{token}>")))
        last: Literal["", "stop", "length"] = "stop" if token in job.stop_ids else "length" if job.left == 0 else ""
        return TokenOut(job=name, content=content, last=last)


def descriptor() -> BackendDescriptor:
    """The claims of the synthetic engine."""
    return BackendDescriptor(
        name="synthetic",
        variant="",
        version="1",
        libraries=(),
        classes=("local_serving",),
        capabilities=("tokenize", "prefill", "decode", "batched_decode"),
        families=("llama",),
        context_max=CONTEXT,
        weight_dtypes=("f32",),
        quantization=(),
        attention=("mha",),
        cache_forms=(),
        tensor_formats=(),
        parallelism=(),
        sampler="canonical",
        prompt="ids",
        streaming=True,
        batch_max=8,
        band="x32",
        activations="",
        batch_invariant=True,
        chunk_invariant=True,
        run_to_run=True,
        isolation="process",
    )


def synthetic_model() -> ModelDescriptor:
    """A model that exists in name only: its digests are those of its name."""
    name = content_digest(b"zg-synthetic model")
    config = ModelConfig(
        family="llama",
        hidden_size=8,
        layer_count=1,
        head_count=1,
        kv_head_count=1,
        head_dim=8,
        ffn_size=8,
        vocab_size=VOCABULARY,
        norm_eps=Real("1e-05"),
        rope=RopeConfig(theta=Real("10000.0")),
        qkv_bias=False,
        qk_norm=False,
        context_length=CONTEXT,
    )
    return ModelDescriptor(
        name="synthetic",
        form="hf",
        config=config,
        tied_head=True,
        parameter_count=0,
        weights="f32",
        artifact=name,
        model=name,
        tokenizer=name,
        vocabulary=name,
    )


SYNTHETIC_MODEL = synthetic_model()


def offer(worker: str) -> ModelOffer:
    """What a worker of this name offers."""
    return ModelOffer(backend=worker, descriptor=SYNTHETIC_MODEL, engine=digest(descriptor()))
