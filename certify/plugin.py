"""The pytest plugin that turns checks into verdicts (W1). It does nothing in a run without `--zg-subject`.

Law: the plugin decides how a case ended by where the exception came from, and by nothing else:
what a case raised, or an assertion in a file of checks, is a FAIL; an error that came out of a worker is a FAIL; a dead
or hung worker is a CRASH; any other exception is the suite's own defect (SKIPPED, and exit code 3).
Records travel as user properties of reports, so that xdist workers need nothing shared; the controller writes them.
A case that was collected has a record or is a defect; when nobody waits for the results, nothing is written.
"""

import json
import os
import shlex
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

__all__ = ["Peers", "pytest_addoption", "pytest_configure"]

CHECKS_DIR = str(Path(__file__).parent / "checks")
WORKERS_MODULE = "zeitgeist.host.workers"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The `--zg-*` options."""
    group = parser.getgroup("zeitgeist", "certification of LLM engines")
    group.addoption("--zg-subject", default="", help="backend to certify, e.g. reference, llama_cpp:fa")
    group.addoption("--zg-service", default="", help="module:Class that serves the backend in the child (mutants)")
    group.addoption("--zg-model", default="", help="model directory or GGUF file (default: zg-tiny)")
    group.addoption("--zg-level", default="standard", help="smoke, standard or full")
    group.addoption("--zg-seed", default=0, type=int, help="seed of all entropy of the checks")
    group.addoption("--zg-out", default="", help="directory for records.jsonl")
    group.addoption("--zg-peers", default="", help="other backends for the interop checks, comma separated")
    group.addoption("--zg-profile", default="", help="tolerance profile (TOML); the standard one when not given")
    group.addoption("--zg-check", action="append", default=[], help="run only this check or case id (repeatable)")
    group.addoption("--zg-families", default="", help="run only these families, e.g. BN")
    group.addoption("--zg-progress", default=0, type=int, help="write one JSON line a case to this descriptor")
    group.addoption("--zg-parent", default=0, type=int, help="end with the process of this id, which started us")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks; with a subject, the session that runs it and, in the controller, the recorder."""
    config.addinivalue_line("markers", "zg_check(meta): a certification check")
    config.addinivalue_line("markers", "zg_level(name): the level from which this parameter runs")
    config.addinivalue_line("markers", "requirement(id): catalogue id that a test proves")
    if option(config, "--zg-subject"):
        end_with_parent(config)
        config.pluginmanager.register(CheckSession(config), "zeitgeist-session")
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(Recorder(config), "zeitgeist-recorder")


def end_with_parent(config: pytest.Config) -> None:
    """Linux: be killed with the command that asked for this run, an xdist worker with its controller."""
    from zeitgeist.host.worker_main import die_with_parent

    if hasattr(config, "workerinput"):
        die_with_parent(os.getppid())
    elif option(config, "--zg-parent"):
        die_with_parent(option(config, "--zg-parent"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the level, --zg-check and --zg-families leave out; checks need a subject."""
    from certify.registry import runs_at

    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        meta = check_meta(item)
        if meta is None:
            kept.append(item)
            continue
        if not option(config, "--zg-subject"):
            raise pytest.UsageError(f"{item.nodeid} is a certification check: name a backend with --zg-subject")
        wanted = runs_at(case_level(item), option(config, "--zg-level")) and chosen(config, item, meta)
        (kept if wanted else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def option(config: pytest.Config, name: str) -> Any:
    """The value of a `--zg-*` option; each has a default of its own type."""
    return config.getoption(name)


def check_meta(item: pytest.Item) -> Any:
    """The CheckMeta of a test, or None when it is not a check."""
    marker = item.get_closest_marker("zg_check")
    return marker.args[0] if marker else None


def case_level(item: pytest.Item) -> str:
    """The level from which this case runs: of its parameters' marks, else of the check."""
    marker = item.get_closest_marker("zg_level")
    return str(marker.args[0]) if marker else check_meta(item).level


def case_id(item: pytest.Item) -> str:
    """The check id with the parameters: `N.boundary[4096]`."""
    callspec = getattr(item, "callspec", None)
    return check_meta(item).id + (f"[{callspec.id}]" if callspec else "")


def chosen(config: pytest.Config, item: pytest.Item, meta: Any) -> bool:
    """Do --zg-check and --zg-families let this case through?"""
    names, families = option(config, "--zg-check"), option(config, "--zg-families")
    return (not names or meta.id in names or case_id(item) in names) and (not families or meta.family in families)


class Peers:
    """Other subjects, each a worker with the model loaded, started when first asked for; `names` in given order."""

    def __init__(self, names: tuple[str, ...], begin: Callable[[str], Any]) -> None:
        self.names = names
        self.begin = begin
        self.running: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.running or not self.running[name].alive:
            self.running[name] = self.begin(name)
        return self.running[name]

    def close(self) -> None:
        """Shut every started peer down."""
        for worker in self.running.values():
            worker.stop()
        self.running.clear()


def named_model(config: pytest.Config) -> Path:
    """`--zg-model`, else zg-tiny."""
    from certify.run import default_model

    return Path(option(config, "--zg-model") or default_model())


def model_words(model: Path) -> list[str]:
    """How a line to repeat names the model: not at all when it is the one that a run takes by itself."""
    from certify.run import is_default_model, stated_path

    return [] if is_default_model(model) else ["--model", stated_path(model)]


class CheckSession:
    """The subject of this process: started late, restarted after a crash, asked for a nonsense capability first."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.subject_name: str = option(config, "--zg-subject")
        self.service: str = option(config, "--zg-service")
        self.model = named_model(config)
        self.model_words = model_words(self.model)
        self.worker: Any = None
        self.admission: str | None = None
        self.extra: list[Any] = []
        names = tuple(name for name in option(config, "--zg-peers").split(",") if name)
        self.peers = Peers(names, lambda name: self.begin(name, "", self.model))
        self.cached_oracle: Any = None
        self.cached_profile: Any = None

    def profile(self) -> Any:
        """The profile of this run."""
        from certify.profile import STANDARD, load_profile

        if self.cached_profile is None:
            self.cached_profile = load_profile(option(self.config, "--zg-profile") or STANDARD)
        return self.cached_profile

    def begin(self, backend: str, service: str, model: Path) -> Any:
        """A worker with the model loaded."""
        from certify.subject import start_subject

        return start_subject(backend, service, model, self.profile()["time.call_s"])

    def subject(self) -> Any:
        """The live subject; after a crash a new one."""
        if self.worker is not None and not self.worker.alive:
            self.worker = None
        if self.worker is None:
            self.worker = self.begin(self.subject_name, self.service, self.model)
        if self.admission is None:
            from certify.subject import canary

            self.admission = canary(self.worker)
        return self.worker

    def oracle(self) -> Any:
        """The float64 oracle of the model, made once."""
        if self.cached_oracle is None:
            from certify.oracle import Oracle

            self.cached_oracle = Oracle.open(self.model)
        return self.cached_oracle

    def command(self, case: str) -> str:
        """One line that repeats the case."""
        parts = ["zg-certify", "run", "--subject", self.subject_name, *self.model_words]
        parts += ["--service", self.service] if self.service else []
        parts += ["--peers", ",".join(self.peers.names) or "none"]
        parts += [
            "--level",
            option(self.config, "--zg-level"),
            "--seed",
            str(option(self.config, "--zg-seed")),
            "--check",
            case,
        ]
        return shlex.join(parts)

    def new_case(self, item: pytest.Item) -> Any:
        """The case object of a test."""
        from certify.case import Case

        name = case_id(item)
        return Case(
            id=name,
            meta=check_meta(item),
            profile=self.profile(),
            seed=option(self.config, "--zg-seed"),
            subject_name=self.subject_name,
            command=self.command(name),
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Before the check: admitted? Are its `needs` claimed? If not, the refusal itself is the check."""
        meta = check_meta(pyfuncitem)
        if meta is None:
            return None
        from certify.subject import settle_needs

        case = pyfuncitem.stash[CASE]
        worker = self.subject()
        if self.admission:
            case.fail(f"the subject is not admitted: {self.admission}")
        settle_needs(case, worker, meta.needs)
        return None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Make the case before the fixtures, so that a failure in a fixture has a record too."""
        if check_meta(item) is not None:
            item.stash[CASE] = self.new_case(item)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the record to the report of the call, or of the setup that did not come to it."""
        report = yield
        if check_meta(item) is not None and (call.when == "call" or (call.when == "setup" and call.excinfo)):
            record, defect = judge(item.stash[CASE], call.excinfo)
            self.attach(item, report, record, defect)
        return report

    def attach(self, item: pytest.Item, report: pytest.TestReport, record: Any, defect: str) -> None:
        """Write the record into the report and make pytest's outcome agree with the verdict."""
        from certify.records import to_json
        from certify.verdict import Verdict

        if record.verdict is Verdict.CRASH:
            self.drop_dead()
        report.user_properties.append(("zg-record", to_json(record).decode()))
        report.user_properties.append(("zg-defect", defect))
        if record.verdict.bad or defect:
            report.outcome = "failed"
            report.longrepr = f"{record.verdict}: {record.observation}\n{defect}\nrepeat: {record.command}"

    def drop_dead(self) -> None:
        """After a crash the subject starts afresh even if it was another child of the check that died."""
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def pytest_sessionfinish(self) -> None:
        """Shut the children down."""
        if self.worker is not None:
            self.worker.stop()
        self.peers.close()

    @pytest.fixture(name="case")
    def case_fixture(self, request: pytest.FixtureRequest) -> Any:
        """certify.case.Case of this check."""
        return request.node.stash[CASE]

    @pytest.fixture(name="subject")
    def subject_fixture(self) -> Any:
        """certify.subject.Subject: a Worker with the model loaded."""
        return self.subject()

    @pytest.fixture(name="oracle")
    def oracle_fixture(self) -> Any:
        """certify.oracle.Oracle of the model."""
        return self.oracle()

    @pytest.fixture(name="profile")
    def profile_fixture(self) -> Any:
        """certify.profile.Profile."""
        return self.profile()

    @pytest.fixture(name="model_path")
    def model_path_fixture(self) -> Path:
        """Path of the model."""
        return self.model

    @pytest.fixture(name="peers")
    def peers_fixture(self) -> Peers:
        """The other subjects."""
        return self.peers

    @pytest.fixture(name="start")
    def start_fixture(self) -> Generator[Callable[..., Any], None, None]:
        """start(model_path=None, backend=None, service="") -> another worker, shut down after the check."""
        begun: list[Any] = []

        def start(model_path: Path | None = None, backend: str | None = None, service: str = "") -> Any:
            service = service or (self.service if backend is None else "")
            begun.append(self.begin(backend or self.subject_name, service, model_path or self.model))
            return begun[-1]

        yield start
        for worker in begun:
            worker.stop()


CASE: pytest.StashKey[Any] = pytest.StashKey()


def judge(case: Any, excinfo: pytest.ExceptionInfo[BaseException] | None) -> tuple[Any, str]:
    """(record, "" or what is wrong with the suite) of a case that ended with excinfo."""
    from certify.case import CheckFailed, NotDecided, SuiteDefect
    from certify.verdict import Verdict
    from zeitgeist.core.errors import ZeitgeistError
    from zeitgeist.host.workers import WorkerCrashed, WorkerTimeout

    if excinfo is None:
        try:
            return case.record(case.verdict(), "; ".join(case.notes) or "as expected"), ""
        except SuiteDefect as defect:
            return case.record(Verdict.SKIPPED, str(defect)), str(defect)
    error = excinfo.value
    if isinstance(error, NotDecided):
        return case.record(error.verdict, error.reason), ""
    if isinstance(error, WorkerCrashed | WorkerTimeout):
        return case.record(Verdict.CRASH, str(error)), ""
    raised_in = innermost(error.__traceback__)
    ours = isinstance(error, AssertionError) and raised_in.startswith((CHECKS_DIR, case.meta.file))
    theirs = (
        isinstance(error, ZeitgeistError) and error.spec.fault != "host" and passed(error.__traceback__, WORKERS_MODULE)
    )
    theirs = theirs or (isinstance(error, ZeitgeistError) and error.id == "zg/backend/failed")
    if isinstance(error, CheckFailed) or ours or theirs:
        return case.record(Verdict.FAIL, str(error).strip() or repr(error)), ""
    text = f"suite defect: {type(error).__name__}: {error}"
    return case.record(Verdict.SKIPPED, text), f"{text}\n{excinfo.getrepr(style='short')}"


def innermost(traceback: TracebackType | None) -> str:
    """File of the frame that raised."""
    name = ""
    while traceback is not None:
        name, traceback = traceback.tb_frame.f_code.co_filename, traceback.tb_next
    return name


def passed(traceback: TracebackType | None, module: str) -> bool:
    """Did the exception come through a frame of module?"""
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == module:
            return True
        traceback = traceback.tb_next
    return False


class Recorder:
    """In the controller: collects records from reports, writes records.jsonl sorted by case id, and progress lines."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.lines: dict[str, str] = {}
        self.defects: list[str] = []
        self.waiting: set[str] = set()
        self.seconds: dict[str, float] = {}
        self.case_of: dict[str, str] = {}
        self.out: str = option(config, "--zg-out")
        self.progress: int = option(config, "--zg-progress")
        self.spread = bool(getattr(config.option, "numprocesses", None))

    def say(self, line: dict[str, Any]) -> None:
        """Send one progress line to the parent. Nobody listens: the directory is no longer ours, so end the session."""
        if self.progress:
            try:
                os.write(self.progress, json.dumps(line).encode() + b"\n")
            except BrokenPipeError:
                self.abandon()

    def abandon(self) -> None:
        """End the session and write nothing, no records and no JUnit file."""
        self.progress, self.out = 0, ""
        junit: Any = self.config.pluginmanager.get_plugin("junitxml")
        if junit is not None:
            junit.pytest_unconfigure(self.config)
        pytest.exit("nobody waits for the results any more")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say how many cases there will be."""
        if not self.spread:
            self.expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """As above, from an xdist worker."""
        if not self.waiting:
            self.expect(ids)

    def expect(self, ids: list[str]) -> None:
        """These are the cases; each must come back."""
        self.waiting = set(ids)
        self.say({"total": len(ids), "nodeids": ids})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Checks that could not be read are missing from the total."""
        if report.failed:
            self.defects.append(f"{report.nodeid}: {report.longreprtext}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record of a case. What failed without one (its process died, a fixture did not end) is a defect."""
        properties = dict(report.user_properties)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.when == "call" or report.outcome != "passed":
            self.waiting.discard(report.nodeid)
            if report.failed and "zg-record" not in properties:
                self.defects.append(f"{report.nodeid}: {report.longreprtext}")
        if "zg-record" in properties and (report.when == "call" or report.outcome != "passed"):
            line = str(properties["zg-record"])
            record = json.loads(line)
            self.lines[record["case"]] = line
            if properties.get("zg-defect"):
                self.defects.append(f"{record['case']}: {properties['zg-defect']}")
            self.case_of[report.nodeid] = record["case"]
            told = {name: record[name] for name in ("case", "family", "verdict")}
            self.say({**told, "nodeid": report.nodeid})

    def pytest_sessionfinish(self) -> None:
        """Write DIR/records.jsonl, how long each case took and what was wrong with the suite itself."""
        from certify.results import DURATIONS

        if self.out:
            self.defects += [f"{nodeid}: did not come to its end" for nodeid in sorted(self.waiting)]
            out = Path(self.out)
            out.mkdir(parents=True, exist_ok=True)
            text = "".join(self.lines[case] + "\n" for case in sorted(self.lines))
            (out / "defects.txt").write_text("\n\n".join(self.defects), encoding="utf-8")
            seconds = {case: round(self.seconds[nodeid], 3) for nodeid, case in sorted(self.case_of.items())}
            (out / DURATIONS).write_text(json.dumps(seconds, indent=0), encoding="utf-8")
            partial = out / "records.jsonl.partial"  # on a full disk: no records rather than half of them
            partial.write_text(text, encoding="utf-8")
            partial.replace(out / "records.jsonl")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line of counts, so that UNSUPPORTED and INCONCLUSIVE are as loud as PASS."""
        counts: dict[str, int] = {}
        for line in self.lines.values():
            verdict = json.loads(line)["verdict"]
            counts[verdict] = counts.get(verdict, 0) + 1
        terminalreporter.write_line("verdicts: " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
