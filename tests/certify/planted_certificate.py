"""A certificate's predicate of planted parts; each test changes the part it is about."""

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from certify import certificate
from certify.certificate import Peer, Predicate, RunRef, partners
from certify.environment import Environment, Package
from certify.levels import exchanges_of
from certify.profile import load_profile
from certify.verdict import CaseRecord, KillScore, MatrixCell
from zeitgeist.core.descriptors.backend import BackendDescriptor, Library
from zeitgeist.core.descriptors.model import ModelConfig, ModelDescriptor, RopeConfig
from zeitgeist.core.ids import Digest, Real

__all__ = ["BLAKE", "TODAY", "planted_backend", "planted_model", "planted_predicate"]

BLAKE = Digest("blake3:" + "ab" * 32)
TODAY = datetime.date(2026, 11, 21)
TABLE = "sha256:" + "01" * 32
"""Digest of a published table of mutants."""

ENVIRONMENT = Environment(
    cpu="Example CPU",
    cores=2,
    machine="x86_64",
    system="Linux 6",
    python="3.11.7",
    threads="1",
    packages=(Package(name="numpy", version="2.0"),),
)


def planted_backend(name: str, **changes: Any) -> BackendDescriptor:
    """Claims of a subject."""
    engine, _, variant = name.partition(":")
    made = BackendDescriptor(
        name=engine,
        variant=variant,
        version="1.2.3",
        libraries=(Library(name="lib" + engine, version="1.2.3", digest=BLAKE),),
        classes=("local_serving",),
        capabilities=("prefill", "decode"),
        families=("llama",),
        context_max=4096,
        weight_dtypes=("f32",),
        quantization=(),
        attention=("full",),
        cache_forms=(),
        tensor_formats=(),
        parallelism=(),
        sampler="canonical",
        prompt="ids",
        streaming=True,
        batch_max=8,
        band="x32",
        activations="",
        batch_invariant=name == "reference",
        chunk_invariant=name == "reference",
        run_to_run=True,
        isolation="process",
    )
    return msgspec.structs.replace(made, **changes)


def planted_model() -> ModelDescriptor:
    """A small model."""
    config = ModelConfig(
        family="llama",
        hidden_size=64,
        layer_count=6,
        head_count=4,
        kv_head_count=2,
        head_dim=16,
        ffn_size=64,
        vocab_size=512,
        norm_eps=Real("1e-05"),
        rope=RopeConfig(theta=Real("10000.0")),
        qkv_bias=False,
        qk_norm=False,
        context_length=4096,
    )
    return ModelDescriptor(
        name="zg-tiny",
        form="hf",
        config=config,
        tied_head=False,
        parameter_count=1_312_384,
        weights="f32",
        artifact=BLAKE,
        model=BLAKE,
        tokenizer=BLAKE,
        vocabulary=BLAKE,
    )


def planted_predicate(
    subject: str, records: Sequence[CaseRecord], matrix: Sequence[MatrixCell] = (), **changes: Any
) -> Predicate:
    """Of these records and cells; peers are those that they name. changes: other arguments of `certificate.build`."""
    run = RunRef(
        subject=subject,
        service="",
        model_path="fixtures/models/zg-tiny",
        level="standard",
        seed=0,
        peers=(),
        command="",
    )
    names = partners(subject, exchanges_of(records), matrix)
    parts: dict[str, Any] = {
        "suite_digest": "sha256:" + "cd" * 32,
        "product_digest": "sha256:" + "ef" * 32,
        "profile": load_profile(),
        "backend": planted_backend(subject),
        "model": planted_model(),
        "run": run,
        "environment": ENVIRONMENT,
        "records": records,
        "matrix": matrix,
        "peers": [Peer(name=name, backend=planted_backend(name)) for name in names],
        "kill_score": KillScore(status="run", killed=24, mutants=24, flagged=0, honest_runs=60, table=TABLE),
        "admitted": True,
        "today": TODAY,
    }
    return certificate.build(**parts | changes)
