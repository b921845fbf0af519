"""A campaign with every verdict, a matrix that fails in one cell, findings of all kinds and hostile strings."""

import msgspec
from planted_certificate import planted_backend, planted_predicate

from certify.profile import load_profile
from certify.report.campaign import Campaign, SubjectRun
from certify.verdict import CaseRecord, Exact, Exchange, Finding, FindingKind, MatrixCell, Metric, Verdict

__all__ = ["HOSTILE", "SUBJECTS", "planted_campaign"]

HOSTILE = "<script>alert('zg')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }} & \u202e \x1b[31m ]]>"
"""What a subject could say to break a page, an XML file or a terminal."""

SUBJECTS = ("reference", "torch", "mlx:raw", "llama_cpp", "llama_cpp:fa")
COMMAND = "zg-certify run --subject {} --model fixtures/models/zg-tiny --level standard --seed 0 --check '{}'"


def metric(name: str, value: float, limit: float | None, source: str = "fidelity.ulp") -> Metric:
    """A measured number, with a limit or for information."""
    shown = "" if limit is None else repr(limit)
    direction = "at most" if shown else ""
    return Metric(
        name=name, value=repr(value), limit=shown, direction=direction, unit="logit", source=source if shown else ""
    )


def record(
    subject: str, case: str, verdict: Verdict, observation: str, findings: tuple[Finding, ...] = ()
) -> CaseRecord:
    """One case; a failing one is 3 times above its limit, others 40 times below."""
    value = 1.5e-4 if verdict.bad else 1.25e-6
    return CaseRecord(
        case=case,
        check=case.partition("[")[0],
        family=case[0],
        clause="DESIGN §9: logits stay in the band on every geometry",
        verdict=verdict,
        expectation="96 prefilled and 8 decoded rows are the oracle's within the band",
        observation=observation,
        worst_row="row 88 of 104: relative L2 1.6e-06; largest at column 48" if case[0] in "NG" else "",
        metrics=(metric("max abs", value, 5e-5), metric("rows counted", 104.0, None)) if case[0] in "NGVX" else (),
        digests=(Exact(name="rows", digest="00" * 32),),
        motive="seen in https://github.com/vllm-project/vllm/issues/4697, and javascript:alert(1)"
        if case[0] == "G"
        else "",
        level="standard",
        subject=subject,
        command=COMMAND.format(subject, case),
        findings=findings,
        exchanges=(Exchange(exporter=subject, importer="reference"),) if case[0] == "X" else (),
    )


def finding(subject: str, id: str, kind: FindingKind) -> Finding:
    """One finding of a kind."""
    return Finding(
        id=id,
        kind=kind,
        family="G",
        subject=subject,
        statement=f"{subject} shows a {kind}",
        evidence=f"measured 22.2 from the oracle {HOSTILE}",
        handled="the adapter sets it before the model is built" if kind == "trap" else "",
    )


def records(subject: str, cases: int) -> list[CaseRecord]:
    """`cases` in each of nine families; `mlx:raw` has every verdict and hostile words."""
    out = [
        record(subject, f"{family}.check-{n % 4}[{n}]", Verdict.EXACT if n % 3 == 0 else Verdict.PASS, "as expected")
        for family in "BTSNGDVXF"
        for n in range(cases)
    ]
    if subject == "mlx:raw":
        kinds: tuple[FindingKind, ...] = ("defect", "property", "trap", "control")
        found = tuple(finding(subject, f"{kind}-1", kind) for kind in kinds)
        out.append(record(subject, "G.rope-theta[500k]", Verdict.FAIL, f"max abs is 22.2 logit {HOSTILE}", found))
        out += [record(subject, f"N.each[{verdict}]", verdict, f"ended {verdict}") for verdict in Verdict]
    return out


def cell(exporter: str, importer: str, form: str, fidelity: float, limit: float) -> MatrixCell:
    """One measured exchange."""
    return MatrixCell(
        exporter=exporter,
        importer=importer,
        form=form,
        scenario="prompt 300, decode 16",
        fidelity=repr(fidelity),
        fidelity_limit=repr(limit),
        loss=repr(fidelity * 1.7),
        loss_limit="0.0001" if form == "F32_HALF" else "",
        poison="4.2",
        verdict=Verdict.FAIL if fidelity > limit else Verdict.EXACT if fidelity == 0 else Verdict.PASS,
        detail="native, 1843 kB, 24 greedy tokens equal",
        mode="native",
        kl="3e-12",
        top1="1.0",
        bytes_count=1_843_200,
        export_ms="3.2",
        import_ms="8.8",
    )


def refused(exporter: str, importer: str) -> MatrixCell:
    """A direction that does not exist."""
    return msgspec.structs.replace(
        cell(exporter, importer, "", 0.0, 1.0),
        fidelity="",
        fidelity_limit="",
        loss="",
        loss_limit="",
        poison="",
        verdict=Verdict.UNSUPPORTED,
        detail="not claimed by both: cache_export",
        mode="refused",
        kl="",
        top1="",
        bytes_count=0,
        export_ms="",
        import_ms="",
    )


def cells(subjects: tuple[str, ...]) -> tuple[MatrixCell, ...]:
    """Every direction in one or two forms; reference → torch fails; one pipeline."""
    made: list[MatrixCell] = []
    for i, exporter in enumerate(subjects):
        for j, importer in enumerate(subjects):
            if (i, j) == (4, 1):
                made.append(refused(exporter, importer))
                continue
            far = (
                9e-5 if (exporter, importer) == ("reference", "torch") else (0.0, 3e-7, 2e-6, 1.1e-5, 4e-5)[(i + j) % 5]
            )
            made.append(cell(exporter, importer, "F32_HALF", far, 5e-5))
            if j == 3:
                made.append(cell(exporter, importer, "F16", 2e-5, 5e-5))
    line = cell("torch>mlx:raw>reference", "", "F32", 1.6e-5, 5e-5)
    return (*made, line)


def planted_campaign(subjects: tuple[str, ...] = SUBJECTS, cases: int = 4, matrix: bool = True) -> Campaign:
    """The campaign; about 9 × cases records a subject."""
    profile = load_profile()
    shown = cells(subjects) if matrix else ()
    made: list[SubjectRun] = []
    for name in subjects:
        found = records(name, cases)
        told = {"version": "1.2.3 " + HOSTILE} if name == "mlx:raw" else {}
        predicate = planted_predicate(name, found, shown, backend=planted_backend(name, **told))
        made.append(SubjectRun(predicate, tuple(found), name.replace(":", "_"), certified=True))
    return Campaign(tuple(made), shown, profile, "0123456789ab", "zg-certify run --subject " + ",".join(subjects))
