"""Two declarations and what both sides must conclude: five outcomes, every reason, one digest (A8, B1, B2, B3)."""

from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.pair import backend, offer
from zeitgeist.core.descriptors.node import HardwareProfile, MemoryProfile, NodeDescriptor
from zeitgeist.core.formats.canonical import decode, digest, encode
from zeitgeist.core.formats.kv import F32_HALF, CacheForm, ElementForm
from zeitgeist.core.negotiate.agreement import ENTRIES_MAX, Agreement, negotiate
from zeitgeist.core.negotiate.declared import Side, own_versions
from zeitgeist.core.wire.messages import Assessment

pytestmark = pytest.mark.requirement("B2")

F16_INTERLEAVED = CacheForm(k=ElementForm(dtype="f16"), v=ElementForm(dtype="f16"), pairing="interleaved")
Q8 = CacheForm(k=ElementForm(dtype="", quant="ggml_q8_0"), v=ElementForm(dtype="", quant="ggml_q8_0"), pairing="half")
UNROTATED = msgspec.structs.replace(F32_HALF, keys_rotated=False)


def side(node: str, *, engines=None, models=None, local: bool = False, **fields) -> Side:
    """An executor with one engine and the golden model, unless told."""
    engines = (backend(),) if engines is None else engines
    models = (offer(),) if models is None else models
    descriptor = {
        "node": node,
        "cluster": "home",
        "roles": ("executor",),
        "versions": own_versions(),
        "transports": ("tcp",),
        "hardware": HardwareProfile(accelerator="unknown"),
        "memory": MemoryProfile(),
        "auth": ("ed25519",),
        "bundle_version": 3,
        "health": "ready",
        "backends": engines,
    } | fields
    return Side(descriptor=NodeDescriptor(**descriptor), models=models, local=local)


def idle(node: str, *roles: str, **fields) -> Side:
    """Somebody without engines."""
    return side(node, engines=(), models=(), roles=roles, **fields)


def ids(agreement: Agreement) -> list[str]:
    return [reason.id.removeprefix("zg/") for reason in agreement.reasons]


def fields_of(agreement: Agreement) -> dict[str, str]:
    return {reason.field: reason.id.removeprefix("zg/negotiate/") for reason in agreement.reasons}


# ---- the five outcomes


def test_one_model_in_one_form_on_both_sides_is_fully_compatible() -> None:
    agreement = negotiate(side("a"), side("b"))
    assert (agreement.outcome, agreement.mode, agreement.cache) == ("compatible", "routed", "native")
    assert agreement.reasons == () and agreement.conversions == ()


def test_an_executor_and_a_coordinator_are_fully_compatible() -> None:
    """Whole jobs go one way; nothing has to be converted."""
    for pair in ((side("a"), idle("b", "coordinator")), (idle("a", "coordinator", "client"), side("b"))):
        agreement = negotiate(*pair)
        assert (agreement.outcome, agreement.mode, agreement.cache, agreement.reasons) == (
            "compatible",
            "routed",
            "none",
            (),
        )


def test_two_forms_of_one_cache_are_compatible_with_conversions_that_have_a_cost() -> None:
    """Both directions, K and V, each step by name; f16 to f32 loses nothing, f32 to f16 does."""
    agreement = negotiate(side("a"), side("b", engines=(backend(F16_INTERLEAVED),)))
    assert (agreement.outcome, agreement.cache) == ("with_conversion", "protocol")
    told = {conversion.what: (conversion.exact, conversion.cost) for conversion in agreement.conversions}
    assert told == {
        "a to b: cache k pairs half to interleaved": (True, 2),
        "a to b: cache k f32 to f16": (False, 2),
        "a to b: cache v f32 to f16": (False, 2),
        "b to a: cache k pairs interleaved to half": (True, 2),
        "b to a: cache k f16 to f32": (True, 3),
        "b to a: cache v f16 to f32": (True, 3),
    }


def test_an_importer_that_takes_the_exporters_form_needs_no_conversion() -> None:
    """The cheapest of its forms is used, not its first."""
    agreement = negotiate(side("a"), side("b", engines=(backend(F32_HALF, F16_INTERLEAVED),)))
    assert agreement.outcome == "compatible"
    agreement = negotiate(side("a"), side("b", engines=(backend(F16_INTERLEAVED, F32_HALF),)))
    assert {conversion.what[:6] for conversion in agreement.conversions} == {"b to a"}


def test_one_direction_alone_is_compatible_and_says_what_the_other_lacks() -> None:
    """b exports, but imports nothing."""
    engine = backend(capabilities=("prefill", "decode", "cache_export"))
    agreement = negotiate(side("a"), side("b", engines=(engine,)))
    assert (agreement.outcome, agreement.cache) == ("with_conversion", "native")
    assert ids(agreement) == ["negotiate/no-cache-exchange"] and "a to b" in agreement.reasons[0].detail


@pytest.mark.parametrize(
    ("other", "reasons"),
    [
        (
            side("b", engines=(backend(UNROTATED),)),
            ["negotiate/no-conversion"] * 2,
        ),
        (
            side("b", engines=(backend(capabilities=("decode",)),)),
            ["negotiate/no-cache-exchange"] * 2,
        ),
        (side("b", models=(offer(model="other", name="another"),)), ["negotiate/no-common-model"]),
        (
            side("b", models=(offer(model="other"),)),
            ["negotiate/model-differs", "negotiate/no-common-model"],
        ),
        (side("b", models=(offer(tokenizer="other"),)), ["negotiate/tokenizer-differs"]),
    ],
)
def test_where_nothing_of_a_job_can_move_each_serves_alone(other, reasons) -> None:
    """Whole jobs may still be routed; each reason says what stands between."""
    agreement = negotiate(side("a"), other)
    assert (agreement.outcome, agreement.mode, agreement.cache) == ("solo_only", "routed", "none")
    assert ids(agreement) == reasons


def test_two_coordinators_without_engines_have_nothing_to_share() -> None:
    agreement = negotiate(idle("a", "coordinator"), idle("b", "coordinator"))
    assert (agreement.outcome, agreement.mode) == ("solo_only", "solo")
    assert fields_of(agreement) == {"a.roles": "no-executor", "b.roles": "no-executor"}


def test_a_client_is_an_api_only_peer() -> None:
    for pair in ((idle("a", "client"), side("b")), (side("a"), idle("b", "client"))):
        agreement = negotiate(*pair)
        assert (agreement.outcome, agreement.mode, ids(agreement)) == (
            "api_only",
            "client_only",
            ["negotiate/client-only"],
        )


def test_engines_that_take_text_alone_make_an_api_only_peer() -> None:
    """A native sampler behind a text prompt: no job of ours can be moved on or off it. One capable engine is enough."""
    text = backend(name="api", prompt="text", sampler="native")
    agreement = negotiate(idle("a", "coordinator"), side("b", engines=(text,)))
    assert (agreement.outcome, agreement.mode) == ("api_only", "api_only")
    assert fields_of(agreement) == {"b.backends[0].prompt": "text-engine"}
    both = side("b", engines=(text, backend()), models=(offer(engine=digest(backend())),))
    agreement = negotiate(idle("a", "coordinator"), both)
    assert (agreement.outcome, ids(agreement)) == ("compatible", ["negotiate/text-engine"])


def test_two_clients_are_incompatible() -> None:
    agreement = negotiate(idle("a", "client"), idle("b", "client"))
    assert (agreement.outcome, ids(agreement)) == ("incompatible", ["negotiate/nobody-serves"] * 2)


# ---- every reason


@pytest.mark.requirement("A8")
def test_all_differing_versions_are_named_at_once_with_both_numbers() -> None:
    theirs = msgspec.structs.replace(own_versions(), tensor=2, kernel=7, cache=3)
    agreement = negotiate(side("a"), side("b", versions=theirs))
    assert agreement.outcome == "incompatible"
    assert {reason.field: reason.detail for reason in agreement.reasons} == {
        "versions.tensor": "a has 1, b has 2",
        "versions.cache": "a has 1, b has 3",
        "versions.kernel": "a has 1, b has 7",
    }


@pytest.mark.requirement("B3")
@pytest.mark.parametrize(
    ("other", "field", "why"),
    [
        (side("b", roles=()), "b.roles", "undeclared"),
        (side("b", cluster=""), "b.cluster", "undeclared"),
        (side("b", transports=()), "b.transports", "undeclared"),
        (side("b", auth=()), "b.auth", "undeclared"),
        (side("b", models=()), "b.models", "undeclared"),
        (side("b", engines=(), models=()), "b.backends", "undeclared"),
        (side("b", engines=(backend(capabilities=()),)), "b.backends[0].capabilities", "undeclared"),
        (side("b", engines=(backend(classes=()),)), "b.backends[0].classes", "undeclared"),
        (side("b", engines=(backend(version=""),)), "b.backends[0].version", "undeclared"),
        (side("b", engines=(backend(capabilities=("telepathy",)),)), "b.backends[0].capabilities", "undefined"),
        (side("b", engines=(backend(classes=("oracle",)),)), "b.backends[0].classes", "undefined"),
        (side("b", models=(offer(engine="sha256:" + "00" * 32),)), "b.models[0].engine", "undefined"),
        (
            side("b", engines=(backend(), backend(name="torch")), models=(offer(),)),
            "b.models[0].engine",
            "undefined",
        ),
        (side("b", models=(offer(artifact=""),)), "b.models[0].descriptor.artifact", "undeclared"),
        (
            side("b", engines=(backend(CacheForm(k=ElementForm(dtype="f12"), v=F32_HALF.v, pairing="half")),)),
            "b.backends[0].cache_forms[0].k.dtype",
            "undefined",
        ),
        (
            side("b", engines=(backend(CacheForm(k=F32_HALF.k, v=ElementForm(dtype="", quant="q5"), pairing="half")),)),
            "b.backends[0].cache_forms[0].v.quant",
            "undefined",
        ),
    ],
)
def test_what_a_side_does_not_declare_is_refused_with_the_field_named(other, field, why) -> None:
    """Nothing is assumed for a silent side; an undefined word means nothing here. Whichever side it is."""
    assert fields_of(negotiate(side("a"), other))[field] == why
    mirrored = negotiate(other, side("a"))
    assert mirrored.outcome == "incompatible" and fields_of(mirrored)[field] == why


@pytest.mark.requirement("B3")
def test_every_reason_is_given_and_not_the_first_alone() -> None:
    """Versions, cluster, transport, name and fields of both sides in one refusal."""
    theirs = msgspec.structs.replace(own_versions(), protocol=2)
    a = side("a", transports=("unix",), models=())
    b = side("a", cluster="away", versions=theirs, roles=(), engines=(backend(version=""),))
    agreement = negotiate(a, b)
    assert set(ids(agreement)) == {
        "version/mismatch",
        "negotiate/undeclared",
        "negotiate/other-cluster",
        "negotiate/same-node",
        "negotiate/no-common-transport",
    }
    assert {"a.models", "a.roles", "a.backends[0].version"} <= {reason.field for reason in agreement.reasons}


def test_a_worker_may_be_started_before_it_has_a_model() -> None:
    """On a local link alone."""
    agreement = negotiate(
        idle("a", "coordinator", local=True, transports=("process",)),
        side("w", models=(), local=True, transports=("process",)),
    )
    assert (agreement.outcome, agreement.mode) == ("compatible", "solo")


def test_more_reasons_than_a_record_holds_are_counted() -> None:
    """The Assessment takes them as they are."""
    engines = tuple(backend(name=f"e{i}", version="") for i in range(100))
    agreement = negotiate(side("a"), side("b", engines=engines))
    assert len(agreement.reasons) == ENTRIES_MAX and ids(agreement)[-1] == "negotiate/more-reasons"
    said = Assessment(outcome=agreement.outcome, agreement=digest(agreement), reasons=agreement.reasons)
    assert msgspec.msgpack.decode(encode(said), type=Assessment) == said


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), st.integers(0, 400_000))
def test_whatever_a_peer_declares_our_answer_fits_its_record(word, times) -> None:
    """A stranger's text of half a megabyte, in each field that a reason quotes, is cut before it is said back."""
    long = (word * times)[:400_000]
    strange = CacheForm(k=ElementForm(dtype=long), v=ElementForm(dtype="", quant=long), pairing="half")
    for other in (
        side("b", models=(offer(tokenizer=""),), cluster=long),
        side("b", models=(msgspec.structs.replace(offer(), engine=long),), transports=(long,)),
        side("b", engines=(backend(strange, name=long, classes=(long,), capabilities=(long,)),)),
        side("b", engines=(backend(name=long, cache_forms=()),)),
        side("b", models=(with_model(tokenizer=long),)),
        side("b", models=(with_model(model=long),)),
        side("b", models=(with_model(model=long, name=long),)),
    ):
        for agreement in (negotiate(side("a"), other), negotiate(other, side("a"))):
            said = Assessment(
                outcome=agreement.outcome,
                agreement=digest(agreement),
                reasons=agreement.reasons,
                conversions=agreement.conversions,
            )
            assert decode(encode(said), Assessment) == said


def with_model(**fields):
    return msgspec.structs.replace(offer(), descriptor=msgspec.structs.replace(offer().descriptor, **fields))


# ---- symmetry


FORMS = (F32_HALF, F16_INTERLEAVED, Q8, UNROTATED)
SIDES = st.builds(
    lambda node, forms, roles, model, capabilities: side(
        node,
        engines=(backend(*forms, capabilities=capabilities),),
        models=(offer(model=model),) if model != "-" else (),
        roles=roles,
    ),
    st.sampled_from(["a", "b"]),
    st.lists(st.sampled_from(FORMS), min_size=1, max_size=3).map(tuple),
    st.sampled_from([("executor",), ("client",), ("coordinator",), ("coordinator", "executor"), ()]),
    st.sampled_from(["", "other", "-"]),
    st.sampled_from([("prefill", "cache_export", "cache_import"), ("prefill", "cache_export"), ("prefill",)]),
)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES)
def test_who_dials_changes_no_outcome(a, b) -> None:
    """Outcome, mode, cache and the set of reasons and conversions are the same in both directions; texts that speak of
    dialler and acceptor aside. Every outcome but the best says why."""
    ab, ba = negotiate(a, b), negotiate(b, a)
    assert (ab.outcome, ab.mode, ab.cache) == (ba.outcome, ba.mode, ba.cache)
    assert sorted(ids(ab)) == sorted(ids(ba))
    assert set(ab.conversions) == set(ba.conversions)
    assert ab.reasons or ab.conversions or ab.outcome == "compatible"


def test_all_five_outcomes_come_from_declarations_alone() -> None:
    """Over a small grid of sides each of the five appears."""
    grid = [
        side("b"),
        side("b", engines=(backend(Q8),)),
        side("b", engines=(backend(UNROTATED),)),
        idle("b", "client"),
        side("b", cluster="away"),
    ]
    assert [negotiate(side("a"), other).outcome for other in grid] == [
        "compatible",
        "solo_only",  # heads of 16 hold no block of 32
        "solo_only",
        "api_only",
        "incompatible",
    ]
    wide = [offer(config=msgspec.structs.replace(offer().descriptor.config, head_dim=64))]
    assert (
        negotiate(side("a", models=tuple(wide)), side("b", engines=(backend(Q8),), models=tuple(wide))).outcome
        == "with_conversion"
    )
    assert len(list(product(FORMS, FORMS))) == 16
