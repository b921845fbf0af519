"""The plan: how a model will be run by two parties, as a record whose digest both commit to (A7, B1 phase 5)."""

from typing import Annotated, Literal

from msgspec import Meta

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import Digest, NodeId
from zeitgeist.core.limits import LAYER_COUNT_MAX

__all__ = ["Mode", "Plan", "Stage"]

Mode = Literal["solo", "routed", "api_only", "client_only"]


class Stage(Record, frozen=True, kw_only=True):
    """Layers [layer_first, layer_stop) of model on one backend of node."""

    node: NodeId
    backend: str
    model: Digest
    layer_first: int
    layer_stop: int


class Plan(Record, frozen=True, kw_only=True):
    """mode; stages in order of execution; cache: how caches may move; fallbacks: nodes to try next, in order."""

    plan_version: int = 1
    mode: Mode
    stages: Annotated[tuple[Stage, ...], Meta(max_length=LAYER_COUNT_MAX)]
    cache: Literal["native", "protocol", "none"] = "none"
    fallbacks: Annotated[tuple[NodeId, ...], Meta(max_length=64)] = ()
