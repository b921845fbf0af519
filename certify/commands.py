"""What the commands of `zg-certify` do, but for `verify`, which must stay light."""

import argparse
import datetime
import json
from contextlib import nullcontext, suppress
from pathlib import Path

import msgspec

from certify import certificate, dsse
from certify.environment import observe, product_digest, suite_digest
from certify.findings import FINDINGS
from certify.judge_sources import judge_digest
from certify.levels import meets
from certify.private_folder import private_folder
from certify.profile import STANDARD, load_profile
from certify.records import read_records
from certify.registry import CHECKS, FAMILIES, load_checks
from certify.replay import compare, compare_claims, exchanged_with, why_not_exact
from certify.results import holding, subject_dir, writing
from certify.run import (
    Preflight,
    RunRequest,
    RunResult,
    bind_peers,
    default_model,
    described,
    issue,
    kill_score,
    preflight,
    run_checks,
    stated_model,
    summary,
)
from certify.show import console, progress_of, show_matrix, show_result
from certify.verdict import MatrixCell
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.errors import REGISTRY, LocalProtocolError, ZeitgeistError

__all__ = ["explain", "list_checks", "list_subjects", "matrix", "replay", "run", "selftest"]


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names, without repetition, in order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def installed_engines() -> tuple[str, ...]:
    """Built-in backends whose engine can be found, without variants."""
    from zeitgeist.backends.registry import BUILT_IN, list_subjects

    return tuple(subject.name for subject in list_subjects() if subject.installed and subject.name in BUILT_IN)


def peers_of(text: str, subject: str, subjects: tuple[str, ...]) -> tuple[str, ...]:
    """`auto`: the other subjects of this run, or the other installed engines when there is one subject."""
    if text == "none":
        return ()
    engine = subject.partition(":")[0]
    if text != "auto":
        return tuple(name for name in names(text) if name != subject)
    found = subjects if len(subjects) > 1 else installed_engines()
    return tuple(name for name in found if name.partition(":")[0] != engine)


def requests(args: argparse.Namespace) -> list[RunRequest]:
    """One request a subject."""
    subjects = names(args.subject)
    if not subjects:
        raise LocalProtocolError("zg/certify/usage", "no subject named", "subject")
    return [
        RunRequest(
            subject=subject,
            model=args.model or default_model(),
            out=args.out,
            level=args.level,
            seed=args.seed,
            peers=peers_of(args.peers, subject, subjects),
            service=args.service,
            checks=tuple(args.check),
            families=args.families,
            profile_path=args.profile or STANDARD,
            jobs=args.jobs,
        )
        for subject in subjects
    ]


def run(args: argparse.Namespace) -> int:
    """Every mistake is found before the first check; then the subjects one after another."""
    asked = requests(args)
    if args.key:
        dsse.load_private(args.key)
    seen = [preflight(request) for request in asked]
    if args.require:
        profile = load_profile(asked[0].profile_path)
        meets(certificate.grade({}, (), certificate.claims_of(seen[0].backend), profile), args.require, profile)
    with holding(args.out):
        return run_all(args, asked, seen)


def run_all(args: argparse.Namespace, asked: list[RunRequest], seen: list[Preflight]) -> int:
    """Check, grade, sign, report; the directory is ours until it returns."""
    results: list[RunResult] = []
    for request, one in zip(asked, seen, strict=True):
        with progress_of(request.subject) as progress:
            results.append(run_checks(request, one, progress))
    score = kill_score(judge_digest())
    cells = measure_cells(asked, names(args.matrix))
    for result in results:
        result.cells, result.kill_score = cells, score
    bind_peers(results)
    for result in results:
        if not result.why_no_certificate:
            issue(result, args.key, datetime.date.today())
        with writing(result.request.folder):
            (result.request.folder / "summary.json").write_text(json.dumps(summary(result), indent=1), encoding="utf-8")
        show_result(result)
    show_matrix(cells)
    write_report(args.out, results)
    if args.json:
        objects = [summary(result) for result in results]
        print(json.dumps(objects[0] if len(objects) == 1 else {"runs": objects, "matrix": objects[0]["matrix"]}))
    return max((code_of(result, args.require) for result in results), key=(0, 1, 4, 3).index)


def measure_cells(asked: list[RunRequest], named: tuple[str, ...]) -> tuple[MatrixCell, ...]:
    """The interop matrix over the named subjects, else those of this run when there are several and all checks run."""
    subjects = named or tuple(request.subject for request in asked)
    if len(subjects) < 2 or asked[0].partial:
        return ()
    from certify.matrix import measure  # late: with NumPy and the oracle

    first = asked[0]
    with progress_of("matrix") as progress:
        return tuple(measure(subjects, first.model, load_profile(first.profile_path), first.seed, progress))


def write_report(out: Path, results: list[RunResult]) -> None:
    """The page, and where it is."""
    from certify.report.writer import write

    with writing(out):
        page = write(out, results, results[0].cells)
    console().print(f"report: {page}", soft_wrap=True)


def code_of(result: RunResult, require: str) -> int:
    """0 met, 1 not met, 3 the suite itself failed."""
    if result.defects:
        return 3
    if result.failures or result.not_admitted:
        return 1
    return 0 if not require or meets(result.grade, require, result.profile) else 1


def list_checks(args: argparse.Namespace) -> int:
    """Checks by family."""
    known = load_checks()
    if args.json:
        print(json.dumps({"checks": [vars(meta) for meta in known.values()], "families": FAMILIES}))
        return 0
    for family in sorted({meta.family for meta in known.values()}):
        print(f"{family}  {FAMILIES[family]}")
        for meta in known.values():
            if meta.family == family:
                needs = f" (needs {', '.join(meta.needs)})" if meta.needs else ""
                print(f"   {meta.id:38} {meta.level:9} {meta.expectation}{needs}")
    return 0


def list_subjects(args: argparse.Namespace) -> int:
    """Backends, variants and entry points; what is missing for them, with the extra that brings it."""
    from zeitgeist.backends.registry import list_subjects as known_subjects

    found = known_subjects()
    if args.json:
        print(
            json.dumps(
                {
                    "subjects": [
                        {
                            "name": s.name,
                            "about": s.about,
                            "origin": s.origin,
                            "installed": s.installed,
                            "missing": s.missing,
                            "extra": s.extra,
                        }
                        for s in found
                    ]
                }
            )
        )
        return 0
    for subject in found:
        state = "ready" if subject.installed else f"not installed: pip install 'zeitgeist[{subject.extra}]'"
        print(f"{subject.name:24} {state:12} {subject.about}  [{subject.origin}]")
    return 0


def explain(args: argparse.Namespace) -> int:
    """A check, an error id or a finding, or refuse with the nearest names."""
    name = args.name.partition("[")[0]
    rows = explained(name)
    if not rows:
        import difflib

        near = difflib.get_close_matches(args.name, [*CHECKS, *FINDINGS, *map(str, REGISTRY)], n=3, cutoff=0.3)
        raise LocalProtocolError("zg/certify/unknown", f"{args.name!r}; near: {', '.join(near) or 'none'}", "name")
    print(json.dumps(rows) if args.json else "\n".join(f"{key:12} {value}" for key, value in rows.items()))
    return 0


def explained(name: str) -> dict[str, str]:
    """Label -> text of what has this name; empty for nothing."""
    known = load_checks()
    if name in known:
        meta = known[name]
        return {
            "check": meta.id,
            "family": f"{meta.family}: {FAMILIES[meta.family]}",
            "clause": meta.clause,
            "expects": meta.expectation,
            "level": meta.level,
            "needs": ", ".join(meta.needs) or "nothing",
            "motive": meta.motive or "the contract itself",
            "requirement": ", ".join(meta.requirement),
            "code": meta.where,
        }
    if name in FINDINGS:
        found = FINDINGS[name]
        seen_by = ", ".join(found.checks) or "no check; an adapter's own test"
        return {"finding": name, "kind": found.kind, "what": found.about, "seen by": seen_by}
    if name in REGISTRY:
        spec = REGISTRY[name]  # pyright: ignore[reportArgumentType]
        return {
            "error": str(spec.id),
            "who is wrong": spec.fault,
            "cause": spec.cause,
            "what to do": spec.remedy,
            "definite": "it surely did not happen" if spec.definite else "it may have happened in part",
        }
    return {}


def replay(args: argparse.Namespace) -> int:
    """Verify, run again with the same seed, level, subject and peers, and compare."""
    data = certificate.read_file(args.certificate)
    beside = args.certificate.with_name("records.jsonl")
    if not beside.is_file():
        raise ZeitgeistError(
            "zg/certify/bad-certificate", f"{beside} is not there: a replay compares records", "records"
        )
    old = read_records(beside)
    predicate = certificate.verify(data, load_profile(), datetime.date.today(), None, old).predicate
    if args.out and subject_dir(args.out, predicate.run.subject).resolve() == args.certificate.resolve().parent:
        raise LocalProtocolError(
            "zg/certify/out-dir", f"{args.out} holds the certificate that is replayed; it would be written over", "out"
        )
    with nullcontext(args.out) if args.out else private_folder() as out:
        result = run_again(predicate, args.model, out)
    peers = peers_now(predicate, result.request)
    reasons = why_not_exact(predicate, result.backend, peers, observe(), suite_digest(), product_digest())
    found = compare(old, result.records, reasons)
    differences = (*found.differences, *compare_claims(predicate, result.grade.text, result.records))
    if args.json:
        rows = {
            "mode": found.mode,
            "why_not_exact": found.reasons,
            "cases": found.case_count,
            "digests": found.digest_count,
            "same": not differences,
            "differences": differences,
            "signer": "unknown",
        }
        print(json.dumps(rows))
    else:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        print(
            f"mode {found.mode}{why}: {found.case_count} cases, {found.digest_count} digests compared, "
            f"{f'{len(differences)} differ' if differences else 'all the same'}"
        )
        print("  signer unknown: no trusted key was given")
        for line in differences:
            print(f"  {line}")
    return 3 if result.defects else 1 if differences else 0


def run_again(predicate: certificate.Predicate, model: Path | None, out: Path) -> RunResult:
    """The run of a certificate once more, its results into out. model: where it lies now, if not where it lay."""
    stated = predicate.run
    request = RunRequest(
        subject=stated.subject,
        model=model or stated_model(stated.model_path),
        out=out,
        level=stated.level,
        seed=stated.seed,
        peers=stated.peers,
        service=stated.service,
    )
    seen = preflight(request)
    if seen.model.model != predicate.model.model:
        raise LocalProtocolError(
            "zg/certify/usage", f"the model at {request.model} is not that of the certificate", "model"
        )
    with holding(request.out), progress_of(f"replay {request.subject}") as progress:
        return run_checks(request, seen, progress)


def peers_now(predicate: certificate.Predicate, request: RunRequest) -> dict[str, BackendDescriptor]:
    """What the certificate's peers say of themselves here. One that cannot be started is left out: it differs."""
    found: dict[str, BackendDescriptor] = {}
    for name in exchanged_with(predicate):
        with suppress(ZeitgeistError):
            found[name] = described(name, request)
    return found


def matrix(args: argparse.Namespace) -> int:
    """Measure and print the interop matrix."""
    from certify.matrix import measure

    subjects = installed_engines() if args.subjects == "auto" else names(args.subjects)
    with progress_of("matrix") as progress:
        cells = tuple(measure(subjects, args.model or default_model(), load_profile(), args.seed, progress))
    if args.json:
        print(json.dumps({"matrix": msgspec.to_builtins(cells)}))
    else:
        show_matrix(cells)
    return 1 if any(cell.verdict.bad for cell in cells) else 0


def selftest(args: argparse.Namespace) -> int:
    """Run the mutants; published, the score is in the certificates that these very sources issue."""
    from certify.mutants.command import run

    return run(args)
