"""`zg-certify`: certify LLM engines, verify certificates, replay them, explain what is checked.

Law (DESIGN §9): exit code 0 met `--require LEVEL` (without it: no check FAILs or CRASHes); 1 not met; 2 usage;
3 the suite itself failed; 4 subject or model unsupported. A person's mistake is one line, never a traceback.
Imports are late, so that `verify` needs no engine, no array library and under a second.
"""

import argparse
import datetime
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certify.ownership import check_ownership
from zeitgeist.core.errors import ZeitgeistError

__all__ = ["EXIT_CODES", "main"]

EXIT_CODES = {0: "met", 1: "not met", 2: "usage", 3: "harness failure", 4: "subject or model unsupported"}

USAGE = (
    "zg/certify/usage",
    "zg/certify/unknown",
    "zg/certify/out-dir",
    "zg/certify/busy",
    "zg/certify/bad-profile",
    "zg/certify/bad-key",
    "zg/backend/unknown",
)
HARNESS = (
    "zg/certify/harness",
    "zg/certify/no-space",
    "zg/certify/foreign-package",
    "zg/certify/not-installed",
    "zg/worker/start",
)
OWN_EXTRA = ("cryptography", "gguf", "jinja2", "pytest", "rich", "xdist")
"""What the extra `certify` brings; one that is missing is a mistake of the installation, any other module our bug."""

NOT_MET = (
    "zg/certify/tampered",
    "zg/certify/expired",
    "zg/certify/bad-certificate",
    "zg/certify/suite-version",
    "zg/worker/crashed",
    "zg/worker/timeout",
    "zg/worker/lied",
)


def exit_code(error: ZeitgeistError) -> int:
    """The exit code of an error that ended the command."""
    for code, ids in ((2, USAGE), (3, HARNESS), (1, NOT_MET)):
        if error.id in ids:
            return code
    return 4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    codes = "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items())
    top = argparse.ArgumentParser(
        prog="zg-certify",
        description="Certify LLM engines against the Zeitgeist contract.",
        epilog=f"Exit codes: {codes}. First try: zg-certify run",
    )
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run(sub)
    for name, about in (("list", "list the checks"), ("subjects", "list the backends that can be named here")):
        plain = sub.add_parser(name, help=about, description=about)
        plain.add_argument("--json", action="store_true", help="print one JSON object")
    verify = sub.add_parser(
        "verify",
        help="verify a certificate; needs no engine",
        description="Verify a certificate. Exit 0 only when it is signed by the key given with --key.",
    )
    verify.add_argument("certificate", type=Path)
    verify.add_argument("--key", type=Path, help="public key (PEM) of the issuer you trust")
    verify.add_argument("--records", type=Path, help="records.jsonl; the one beside the certificate when there is one")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    replay = sub.add_parser(
        "replay",
        help="run a certificate again and compare",
        description="Run again what a certificate states, with its seed, and compare case by case.",
    )
    replay.add_argument("certificate", type=Path)
    replay.add_argument("--model", type=Path, help="the model, when it lies elsewhere than the certificate says")
    replay.add_argument("--out", type=Path, help="keep the results of the replay here")
    replay.add_argument("--json", action="store_true", help="print one JSON object")
    explain = sub.add_parser(
        "explain", help="explain a check, an error id or a finding", description="What is checked, and why."
    )
    explain.add_argument("name", metavar="CHECK|ERROR-ID|FINDING")
    explain.add_argument("--json", action="store_true", help="print one JSON object")
    add_matrix(sub)
    add_selftest(sub)
    return top


def add_run(sub: Any) -> None:
    """`run`."""
    run = sub.add_parser(
        "run",
        help="certify one or more subjects",
        description="Run the checks on subjects, grade them "
        "and write signed certificates. Without arguments: the NumPy reference on the tiny model.",
    )
    run.add_argument(
        "--subject", default="reference", help="backend[:variant], or several with commas (default: reference)"
    )
    run.add_argument("--model", type=Path, help="Hugging Face or MLX directory, or GGUF file (default: zg-tiny)")
    run.add_argument("--level", default="smoke", help="smoke, standard or full (default: smoke)")
    run.add_argument("--require", default="", metavar="LEVEL", help="exit 0 only when this is held, e.g. L3 or L4-x32")
    run.add_argument("--seed", type=int, default=0, help="seed of everything random in the checks (default: 0)")
    run.add_argument("--out", type=Path, default=Path("reports") / "certify", help="results go to DIR/<subject>/")
    run.add_argument(
        "--peers",
        default="auto",
        help="backends for the interop checks, with commas; auto: those that are installed; none",
    )
    run.add_argument(
        "--matrix",
        default="",
        metavar="NAMES",
        help="subjects of the interop matrix, with commas (default: those of --subject, when there are several)",
    )
    run.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="CASE",
        help="only this check or case; repeatable; no certificate",
    )
    run.add_argument("--families", default="", help="only these families, e.g. BN; no certificate")
    run.add_argument("--service", default="", help=argparse.SUPPRESS)
    run.add_argument("--profile", type=Path, help="tolerance profile (default: standard)")
    run.add_argument("--key", type=Path, help="Ed25519 private key (PEM); by default your own, made on first use")
    run.add_argument("-n", "--jobs", type=count, default=0, help="pytest-xdist processes (default: 0, in one process)")
    run.add_argument("--json", action="store_true", help="print one JSON object")


def add_matrix(sub: Any) -> None:
    """`matrix`."""
    matrix = sub.add_parser(
        "matrix",
        help="measure the interop matrix",
        description="Every ordered pair of subjects: a cache made by one continues on the other.",
    )
    matrix.add_argument("--subjects", default="auto", help="with commas; auto: those that are installed")
    matrix.add_argument("--model", type=Path)
    matrix.add_argument("--seed", type=int, default=0)
    matrix.add_argument("--json", action="store_true", help="print one JSON object")


def add_selftest(sub: Any) -> None:
    """`selftest`."""
    parser = sub.add_parser(
        "selftest",
        help="test the suite with planted bugs",
        description="Run mutants and honest variants through the checks; with --publish certificates carry the score.",
    )
    parser.add_argument("--model", type=Path, help="default: zg-tiny")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="honest variants run with N seeds (default: 1)"
    )
    parser.add_argument(
        "--mutant", action="append", default=[], metavar="NAME", help="only this one; repeatable; keeps no score"
    )
    parser.add_argument(
        "--publish", action="store_true", help="write certify/mutants/kill_score.json, to be committed with the sources"
    )
    parser.add_argument("--wide", action="store_true", help="let every family try, not only those meant; slow")
    parser.add_argument("-n", "--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def count(text: str) -> int:
    """A number of processes: 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def terminated(number: int, frame: object) -> None:
    """SIGTERM unwinds like an error: locks are given back and children ended; 143 is the code shells know for it.

    A second one, which supervisors like to send, must not end the clean-up of the first.
    """
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


@contextmanager
def ending_on_sigterm() -> Generator[None]:
    """`terminated` inside, the previous handler after. Only the main thread may set one; in another nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    with ending_on_sigterm():
        return answer(args)


def answer(args: argparse.Namespace) -> int:
    """The exit code of a command, or of what it raised."""
    try:
        return dispatch(args)
    except ZeitgeistError as error:
        return refuse(error, args.json)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OWN_EXTRA:
            traceback.print_exc()
            return 3
        detail = f"{error.name} is missing: pip install 'zeitgeist[certify]'"
        return refuse(ZeitgeistError("zg/certify/not-installed", detail, "environment"), args.json)
    except BrokenPipeError:  # `zg-certify list | head`: nobody reads on; as the shell has it for a killed writer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("zg-certify: interrupted", file=sys.stderr)
        return 130
    except Exception:  # noqa: BLE001 - Python's own exit code for a bug is 1, which here says "not met"
        traceback.print_exc()
        return 3


def refuse(error: ZeitgeistError, as_json: bool) -> int:
    """Say what is wrong and what to do, as JSON too when that was asked for; the exit code."""
    code, remedy = exit_code(error), error.spec.remedy
    if as_json:
        told = {"id": error.id, "field": error.field, "detail": error.detail, "remedy": remedy}
        print(json.dumps({"error": told, "exit": code}))
    print(f"zg-certify: {error}\n  what to do: {remedy}", file=sys.stderr)
    return code


def dispatch(args: argparse.Namespace) -> int:
    """One command."""
    check_ownership()
    if args.command == "verify":
        return verify(args)
    from certify import commands

    functions = {
        "run": commands.run,
        "list": commands.list_checks,
        "subjects": commands.list_subjects,
        "replay": commands.replay,
        "explain": commands.explain,
        "matrix": commands.matrix,
        "selftest": commands.selftest,
    }
    return functions[args.command](args)


def verify(args: argparse.Namespace) -> int:
    """0 when it holds and the signer is trusted, else 1."""
    from certify.certificate import read_file
    from certify.certificate import verify as verify_bytes
    from certify.dsse import load_public
    from certify.profile import load_profile
    from certify.records import read_records

    trusted = load_public(args.key) if args.key else None
    path: Path | None = args.records
    beside = args.certificate.with_name("records.jsonl")
    if path is None and beside.is_file():
        path = beside
    records = read_records(path) if path else None
    found = verify_bytes(read_file(args.certificate), load_profile(), datetime.date.today(), trusted, records)
    if args.json:
        predicate = found.predicate
        print(
            json.dumps(
                {
                    "integrity": True,
                    "trusted": found.trusted,
                    "subject": predicate.run.subject,
                    "level": predicate.grade.text,
                    "model": str(predicate.model.model),
                    "issued": predicate.issued,
                    "not_after": predicate.not_after,
                    "signer": predicate.signer.key_id,
                    "notes": found.notes,
                }
            )
        )
    else:
        print("\n".join([found.text, *(f"  {note}" for note in found.notes)]))
    return 0 if found.trusted else 1


if __name__ == "__main__":
    sys.exit(main())
