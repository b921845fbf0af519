"""Who uses the nodes of a scenario: submits jobs, takes tokens, sends tensors, and keeps what came of it (V1).

Law: an application hears events and plans commands for later; it never reaches into a core. What it expects is computed
by itself: the tokens of a completion from `backend.reference_tokens`, a tensor's digest from its own bytes.
"""

from typing import assert_never

from sim.backend import SYNTHETIC_MODEL, SyntheticToken, reference_tokens
from sim.entropy import Entropy
from sim.party import Party
from sim.scenario import Completion, Scenario, Tensor, Work
from zeitgeist.core.effects import Command, Release, SendCommand, SubmitCommand, TakenCommand
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.core.formats.canonical import Record, decode
from zeitgeist.core.formats.tensor import RowMajor, TensorEnvelope, chunk_count_for
from zeitgeist.core.ids import JobId
from zeitgeist.core.trace import Event, JobEnded, TokenDelivered, TransferEnded
from zeitgeist.core.wire.messages import Submit

__all__ = ["JobOutcome", "TransferOutcome", "User", "tensor_bytes"]


class JobOutcome(Record, frozen=True, kw_only=True):
    """What became of a completion. right: the tokens are those of the reference, in order, each once; of a job that did
    not end well the first of them."""

    job: str
    outcome: str
    tokens: tuple[int, ...]
    right: bool
    reason: str = ""


class TransferOutcome(Record, frozen=True, kw_only=True):
    """What became of a tensor for one of the two nodes; node: which. reason: "" when it is whole."""

    tensor: str
    node: str
    length: int
    chunks: int
    resent: int
    reason: str = ""


def tensor_bytes(entropy: Entropy, item: Tensor) -> bytes:
    """The content of a tensor: as keyed as everything else."""
    return entropy.about("tensor", item.name).hasher.digest(length=item.length)


class User:
    """The application of one node."""

    def __init__(self, node: str, scenario: Scenario, entropy: Entropy) -> None:
        self.node = node
        self.entropy = entropy
        self.work = [item for item in scenario.work if item.node == node]
        self.completions = {item.job: item for item in self.work if isinstance(item, Completion)}
        self.tokens: dict[str, dict[int, int]] = {}
        self.jobs: dict[str, JobOutcome] = {}
        self.transfers: list[TransferOutcome] = []
        self.refusals: dict[str, str] = {}

    def start(self, party: Party) -> None:
        """Plan all of this node's work."""
        for item in self.work:
            party.later(item.at_ns, lambda item=item: self.begin(party, item), f"work {item.named}")

    def begin(self, party: Party, item: Work) -> None:
        """Give one command."""
        match item:
            case Completion():
                content = party.payloads.put(item.prompt.encode())
                self.command(party, SubmitCommand(submit=submit_of(item), content=content), item.job)
            case Tensor():
                self.command(party, self.sending(party, item), item.name)
            case _:
                assert_never(item)

    def command(self, party: Party, command: Command, name: str) -> None:
        """Tell the node. What it refuses to its caller is an outcome."""
        try:
            party.tell(command)
        except LocalProtocolError as error:
            self.refusals[name] = str(error.id)

    def sending(self, party: Party, item: Tensor) -> SendCommand:
        """The command that sends a tensor."""
        content = party.payloads.put(tensor_bytes(self.entropy, item))
        envelope = TensorEnvelope(
            tensor=item.name,
            op="",
            model="",
            job="",
            session="",
            role="hidden",
            shape=(item.length,),
            dtype="u8",
            layout=RowMajor(),
            quant="",
            byte_order="little",
            framing="chunks",
            compression="none",
            length=item.length,
            checksum=content.digest,
            sequence=0,
            chunk_bytes=item.chunk_bytes,
            chunk_count=chunk_count_for(item.length, item.chunk_bytes),
        )
        return SendCommand(peer=item.peer, channel="tensor", envelope=envelope, content=content)

    def hear(self, event: Event, party: Party) -> None:
        """Take tokens, note ends."""
        match event:
            case TokenDelivered():
                self.token(event, party)
            case JobEnded() if event.job in self.completions:
                self.ended(event)
            case TransferEnded() if event.handle and event.handle in party.payloads.held:
                party.payloads.apply(Release(handle=event.handle))
                self.transferred(event)
            case TransferEnded():
                self.transferred(event)
            case _:
                pass

    def token(self, event: TokenDelivered, party: Party) -> None:
        """One token: read it, and say so once it was thought about."""
        token = decode(party.payloads.get(event.handle), SyntheticToken)
        party.payloads.apply(Release(handle=event.handle))
        held = self.tokens.setdefault(event.job, {})
        assert event.index == len(held), f"token {event.index} of {event.job} after {len(held)}"
        held[event.index] = token.id
        following = TakenCommand(job=event.job, next=event.index + 1)
        think_ns = self.completions[event.job].think_ns if event.job in self.completions else 0
        party.later(think_ns, lambda: self.command(party, following, event.job), f"taken {event.job} {event.index}")

    def ended(self, event: JobEnded) -> None:
        """A job is over: were its tokens right?"""
        item = self.completions[event.job]
        got = tuple(self.tokens.get(event.job, {}).values())
        wanted = reference_tokens(list(item.prompt.encode()), item.token_count)
        right = list(got) == (wanted if event.outcome in ("stop", "length") else wanted[: len(got)])
        reason = event.reason.id if event.reason else ""
        self.jobs[event.job] = JobOutcome(job=event.job, outcome=event.outcome, tokens=got, right=right, reason=reason)

    def transferred(self, event: TransferEnded) -> None:
        """A transfer is over."""
        self.transfers.append(
            TransferOutcome(
                tensor=event.tensor,
                node=self.node,
                length=event.length,
                chunks=event.chunks,
                resent=event.resent,
                reason=event.reason.id if event.reason else "",
            )
        )


def submit_of(item: Completion) -> Submit:
    """The request of a completion."""
    return Submit(job=JobId(item.job), model=SYNTHETIC_MODEL.name, prompt="text", token_count_max=item.token_count)
