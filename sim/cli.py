"""`zg-sim`: run scenarios, record them, replay recordings, verify their files, prove determinism (V2).

Law: exit code 0 all well; 1 a difference, a fault that did nothing, work that was lost or wrong; 2 usage; 3 the core
crashed. With --json one object on standard output and nothing else; progress goes to standard error. A person's mistake
is one line, never a traceback.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from sim.doctor import WAYS, Examined, Way, cores_named, examine, steps_of
from sim.driver import KERNELS
from sim.heap import Ties
from sim.replay import Replayed, replay, verify
from sim.run import RunReport, run
from sim.scenario import BUILTIN, Scenario, check_scenario, read_scenario
from sim.show import show_examined, show_replayed, show_run, show_verified, watched
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core_source import core_digest

__all__ = ["EXIT_CODES", "main"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]

EXIT_CODES = {0: "all well", 1: "a difference, or work lost or wrong", 2: "usage", 3: "the core crashed"}
USAGE = ("zg/sim/bad-scenario", "zg/sim/bad-usage", "zg/sim/no-trace", "zg/sim/out-dir")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    codes = "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items())
    top = argparse.ArgumentParser(
        prog="zg-sim",
        description="Run the protocol's own core in a simulated world, record it, replay it.",
        epilog=f"Exit codes: {codes}. First try: zg-sim run --builtin walk",
    )
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run(sub)
    add_replay(sub)
    trace = sub.add_parser("trace", help="look at recordings", description="Look at recordings.")
    inner = trace.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "Check a recording: hash chain, header, canonical entries, end record, and whether this core made it."
    check = inner.add_parser("verify", help="check the files of recordings", description=text)
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    add_doctor(sub)
    text = "Print a built-in scenario as JSON: edit it, and give the file to `zg-sim run`."
    shown = sub.add_parser("scenario", help="print a built-in scenario as JSON", description=text)
    shown.add_argument("name", choices=sorted(BUILTIN))
    steps = sub.add_parser("steps", description="Read a scenario, write its steps: what doctor runs elsewhere.")
    steps.add_argument("--cores", default="")
    return top


def add_run(sub: Commands) -> None:
    """`zg-sim run`."""
    text = "Run a scenario to its end and judge it: all work done and right, every fault real."
    made = sub.add_parser(
        "run", help="run a scenario", description=text, epilog="zg-sim run --builtin storm --record out"
    )
    made.add_argument("scenario", nargs="?", type=Path, metavar="SCENARIO", help="a .json or .toml file")
    made.add_argument("--builtin", choices=sorted(BUILTIN), help="a scenario that comes with the tool")
    made.add_argument("--seed", type=int, help="instead of the scenario's own")
    made.add_argument("--record", type=Path, metavar="DIR", help="write each party's recording as DIR/NAME.zgtrace")
    made.add_argument("--kernel", choices=sorted(KERNELS), default="simpy", help="what gives time (default: simpy)")
    made.add_argument(
        "--ties",
        choices=("planned", "permuted"),
        default="planned",
        help="which of two happenings of one instant comes first: as planned, or drawn from the seed",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")


def add_replay(sub: Commands) -> None:
    """`zg-sim replay`."""
    text = "Do every step of recordings again, of real hosts or of simulations, and show the first difference."
    made = sub.add_parser("replay", help="replay recordings", description=text)
    made.add_argument("files", nargs="+", type=Path, metavar="FILE")
    made.add_argument("--tolerant", action="store_true", help="also when other sources of the core made the recording")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def add_doctor(sub: Commands) -> None:
    """`zg-sim doctor`."""
    text = (
        "Prove determinism: run each seed again, on the other kernel, from its recording, and in fresh processes with "
        "other hash seeds; name the first step that differs."
    )
    made = sub.add_parser("doctor", help="prove that runs are deterministic", description=text)
    made.add_argument("scenario", nargs="?", type=Path, metavar="SCENARIO", help="a .json or .toml file")
    made.add_argument("--builtin", choices=sorted(BUILTIN), help="a scenario that comes with the tool (default: walk)")
    made.add_argument("--seeds", type=int, default=5, metavar="N", help="how many (default: 5)")
    made.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them (default: 0)")
    made.add_argument("--ways", default=",".join(WAYS), help=f"which ways, of {','.join(WAYS)}")
    made.add_argument("--cores", default="", metavar="MODULE:FUNCTION", help="other cores than the product's")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def chosen(words: argparse.Namespace, default: str = "") -> Scenario:
    """The scenario that the command line names."""
    builtin: str = words.builtin or ("" if words.scenario else default)
    if bool(words.scenario) == bool(builtin):
        wanted = f"a file, or --builtin with one of {', '.join(sorted(BUILTIN))}"
        raise LocalProtocolError("zg/sim/bad-usage", f"wanted {wanted}", "SCENARIO")
    if words.scenario:
        return read_scenario(words.scenario)
    return check_scenario({str(name): make for name, make in BUILTIN.items()}[builtin]())


def seeded(scenario: Scenario, seed: int | None) -> Scenario:
    """scenario with another seed."""
    return scenario if seed is None else msgspec.structs.replace(scenario, seed=seed)


def do_run(words: argparse.Namespace) -> int:
    """`run`."""
    scenario = seeded(chosen(words), words.seed)
    ties = Ties(scenario.seed) if words.ties == "permuted" else None
    report, _ = run(scenario, cores_named(""), words.kernel, ties=ties, record=words.record)
    emit(report) if words.json else show_run(report, words.record)
    return 0 if report.passed else 1


def do_replay(words: argparse.Namespace) -> int:
    """`replay`."""
    cores = cores_named("")
    results: list[Replayed] = []
    with watched(len(words.files), "replay", quiet=words.json) as advance:
        for path in words.files:
            results.append(replay(path, cores.makers(), core_digest(), tolerant=words.tolerant))
            advance(path.name)
    emit(results) if words.json else show_replayed(results)
    return 0 if all(result.same for result in results) else 1


def do_verify(words: argparse.Namespace) -> int:
    """`trace verify`."""
    results = [verify(path, core_digest()) for path in words.files]
    emit(results) if words.json else show_verified(results)
    return 0


def do_doctor(words: argparse.Namespace) -> int:
    """`doctor`."""
    scenario = chosen(words, "walk")
    ways: list[Way] = [way for way in WAYS if way in words.ways.split(",")]
    if words.seeds < 1 or not ways or len(ways) != len(words.ways.split(",")):
        raise LocalProtocolError("zg/sim/bad-usage", f"wanted one seed or more, and ways of {','.join(WAYS)}", "doctor")
    found: list[Examined] = []
    with watched(words.seeds * len(ways), "doctor", quiet=words.json) as advance:
        for seed in range(words.first, words.first + words.seeds):
            one = seeded(scenario, seed)
            found.append(examine(one, words.cores, ways, lambda way, seed=seed: advance(f"seed {seed} {way}")))
    emit(found) if words.json else show_examined(found, ways)
    return 1 if any(one.findings for one in found) else 0


def do_steps(words: argparse.Namespace) -> int:
    """`steps`: a scenario in, its steps out, both for machines."""
    scenario = msgspec.json.decode(sys.stdin.buffer.read(), type=Scenario)
    steps, _ = steps_of(scenario, cores_named(words.cores), "simpy")
    sys.stdout.buffer.write(msgspec.msgpack.encode(steps))
    return 0


def emit(value: RunReport | Sequence[Replayed] | Sequence[Examined] | object) -> None:
    """One JSON object, or a list, on standard output."""
    sys.stdout.buffer.write(msgspec.json.encode(value, order="sorted") + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    words = parser().parse_args(argv)
    commands = {"run": do_run, "replay": do_replay, "trace": do_verify, "doctor": do_doctor, "steps": do_steps}
    try:
        if words.command == "scenario":
            builtin = {str(name): make for name, make in BUILTIN.items()}[words.name]
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(builtin()), indent=2) + b"\n")
            return 0
        return commands[words.command](words)
    except ZeitgeistError as error:
        print(f"zg-sim: {error}", file=sys.stderr)
        return 2 if error.id in USAGE else 3 if error.id == "zg/sim/core-crashed" else 1


if __name__ == "__main__":
    sys.exit(main())
