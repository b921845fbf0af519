"""A worker on a bench: sessions that are ready at once, an engine that answers when told, frames read as records."""

from collections import Counter
from typing import Any

from zeitgeist.core import effects as e
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.link import LinkFacts
from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor, RopeConfig
from zeitgeist.core.descriptors.node import ModelOffer, NodeConfig
from zeitgeist.core.descriptors.trust import AuthConfig
from zeitgeist.core.facts import PeerDown
from zeitgeist.core.formats.canonical import Record, decode, encode
from zeitgeist.core.ids import Digest, Handle, JobId, LinkId, NodeId, Real, Ticket
from zeitgeist.core.machine import Links, Machine
from zeitgeist.core.outbox import Outbox, Standing
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.registry import KINDS, REGISTRY
from zeitgeist.core.worker import Worker

__all__ = ["LINK", "MODEL", "Bench", "assign", "backend", "boot_of", "offer"]

LINK = LinkId(1)
MODEL = Digest("blake3:" + "11" * 32)


def backend(batch_max: int = 2, capabilities: tuple[str, ...] = ("prefill", "decode", "batched_decode")) -> Any:
    """The claims of an engine that can generate."""
    return BackendDescriptor(
        name="custom/zeitgeist/toy",
        variant="",
        version="1",
        libraries=(),
        classes=("local_serving",),
        capabilities=capabilities,
        families=("llama",),
        context_max=64,
        weight_dtypes=("f32",),
        quantization=(),
        attention=("dense",),
        cache_forms=(),
        tensor_formats=(),
        parallelism=(),
        sampler="canonical",
        prompt="ids",
        streaming=False,
        batch_max=batch_max,
        band="x32",
        activations="",
        batch_invariant=True,
        chunk_invariant=True,
        run_to_run=True,
        isolation="process",
    )


def offer() -> ModelOffer:
    """The one model of the bench."""
    config = ModelConfig(
        family="llama",
        hidden_size=4,
        layer_count=1,
        head_count=1,
        kv_head_count=1,
        head_dim=4,
        ffn_size=4,
        vocab_size=32,
        norm_eps=Real("1e-05"),
        rope=RopeConfig(theta=Real("10000.0")),
        qkv_bias=False,
        qk_norm=False,
        context_length=64,
    )
    model = ModelDescriptor(
        name="toy",
        form="hf",
        config=config,
        tied_head=True,
        parameter_count=0,
        weights="f32",
        artifact=MODEL,
        model=MODEL,
        tokenizer=MODEL,
        vocabulary=MODEL,
    )
    return ModelOffer(backend="toy", descriptor=model)


def boot_of(batch_max: int = 2) -> e.Boot:
    """A worker with one engine and one model."""
    config = NodeConfig(
        node=NodeId("worker"),
        cluster="",
        roles=("executor",),
        auth=AuthConfig(modes=("none",), local_trust=("trusted_executor",)),
    )
    return e.Boot(core=MODEL, config=config, epoch=1, seed=bytes(32), backends=(backend(batch_max),), models=(offer(),))


class Ready(Links):
    """Every link is ready when it comes up. The handshake is `test_worker_session.py`'s subject."""

    def __init__(self, boot: e.Boot) -> None:
        self.up: dict[LinkId, Standing] = {}
        self.broken: list[m.Reason] = []

    def told(self, input: e.Input, now: Instant, out: Outbox) -> None:
        match input:
            case e.LinkUp():
                peer = NodeId("parent")
                self.up[input.link] = Standing(peer=peer, state="ready", trust=("trusted_executor",), lane="local")
            case e.LinkDown():
                gone = self.up.pop(input.link)
                out.facts.append(PeerDown(link=input.link, peer=gone.peer, reason=input.reason))
            case _:
                pass

    def standing(self, link: LinkId) -> Standing | None:
        return self.up.get(link)

    def break_off(self, link: LinkId, reason: m.Reason, now: Instant, out: Outbox) -> None:
        self.broken.append(reason)


class Idle(Machine):
    """Transfers that nobody makes."""

    def __init__(self, boot: e.Boot) -> None:
        self.heard: list[e.Input] = []

    def told(self, input: e.Input, now: Instant, out: Outbox) -> None:
        self.heard.append(input)


class Bench:
    """One booted worker with its link up. `said`: records that it sent; `computes`: given out, not yet answered."""

    def __init__(self, batch_max: int = 2) -> None:
        self.worker = Worker(Ready, Idle)
        self.now = Instant(1)
        self.sequence = 0
        self.handle = 1
        self.held: Counter[int] = Counter()
        self.said: list[Record] = []
        self.contents: list[e.PayloadRef | None] = []
        self.computes: list[e.Compute] = []
        self.interrupts: list[Ticket] = []
        self.events: list[Any] = []
        self.closed: list[str] = []
        self.wake_at: Instant | None = None
        self.inputs: list[tuple[Instant, e.Input]] = []
        self.step(boot_of(batch_max))
        facts = LinkFacts(transport="process", inbound=True, loopback=True, address="parent")
        self.step(e.LinkUp(link=LINK, lane="local", facts=facts))

    def step(self, input: e.Input) -> e.Effects:
        """One input; its effects are noted, then given back."""
        self.inputs.append((self.now, input))
        effects = self.worker.step(input, self.now)
        for op in effects.payloads:
            assert isinstance(op, e.Release) and self.held[op.handle] == 1, f"{op} frees what is not held"
            del self.held[op.handle]
        for send in effects.send:
            assert isinstance(send, e.Send) and send.sequence == len(self.said)
            self.said.append(decode(send.record, REGISTRY[send.kind].record))
            self.check_window(self.said[-1])
            self.contents.append(send.content)
        for call in effects.calls:
            if isinstance(call, e.Interrupt):
                self.interrupts.append(call.ticket)
            else:
                assert isinstance(call, e.Compute)
                self.computes.append(call)
        assert len(self.computes) <= 1, "the engine computes one thing at a time"
        self.events += effects.events
        self.closed += [close.reason for close in effects.close]
        self.wake_at = effects.wake_at
        return effects

    def check_window(self, record: Record) -> None:
        """No token is more than its attempt's window past what was acknowledged."""
        if isinstance(record, m.Token):
            run = self.worker.runs.runs.get(JobId(record.job))
            if run is not None and run.assign.attempt == record.attempt:
                assert record.index - run.acked < run.assign.window, f"{record} is outside the window"

    def content(self) -> e.PayloadRef:
        """A payload that the driver holds from now on."""
        self.handle += 2
        self.held[self.handle] = 1
        return e.PayloadRef(handle=Handle(self.handle), length=1, digest=MODEL)

    def hear(self, record: Record, content: bool = False, raw: bytes | None = None, **changed: Any) -> e.Effects:
        """A frame from the parent."""
        row = KINDS[type(record)]
        frame: dict[str, Any] = {
            "link": LINK,
            "channel": int(row.channels[0]),
            "kind": row.kind,
            "flags": 0,
            "stream": 0,
            "sequence": self.sequence,
            "record": encode(record) if raw is None else raw,
            "content": self.content() if content else None,
        }
        self.sequence += 1
        return self.step(e.FrameArrived(**{**frame, **changed}))

    def answer(self, refusal: m.Reason | None = None, lasts: dict[str, str] | None = None) -> e.Compute:
        """The engine finishes what it computes: well, or with refusal. lasts: jobs that end with this step."""
        compute = self.computes.pop()
        match compute.op:
            case "decode" if refusal is None:
                tokens = tuple(
                    e.TokenOut(job=job, content=self.content(), last=(lasts or {}).get(job, ""))  # type: ignore[arg-type]
                    for job in compute.jobs
                )
                result = e.Computed(tokens=tokens)
            case "request" if refusal is None:
                result = e.Computed(content=self.content())
            case "prompt" if refusal is None:
                result = e.Computed(prompt_count=3)
            case _:
                result = e.Computed(refusal=refusal)
        self.step(e.CallDone(ticket=compute.ticket, result=result))
        return compute

    def of(self, kind: type[Record]) -> list[Any]:
        """What it said of one kind."""
        return [record for record in self.said if isinstance(record, kind)]


def assign(job: str = "a", attempt: int = 1, **changed: Any) -> m.Assign:
    """An attempt of job."""
    fields: dict[str, Any] = {
        "job": job,
        "owner": "n1",
        "owner_epoch": 1,
        "attempt": attempt,
        "plan": MODEL,
        "model": MODEL,
        "prompt": "ids",
        "token_count_max": 8,
        "window": 4,
    }
    return m.Assign(**{**fields, **changed})
