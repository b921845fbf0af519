'''The checks. Each is a pytest test; checks are strangers to one another.

    """Family B: the backend contract (I1)."""

    from certify.case import Case
    from certify.registry import at_level, check
    from certify.subject import Subject

    @check(id="B.truncate-growth-refused", family="B", clause="I1: truncate keeps the first n tokens",
           level="smoke", needs=("truncate",), requirement=("I1",), motive="",
           expectation="truncate to more tokens than the session holds is refused")
    def test_truncate_growth_refused(case: Case, subject: Subject) -> None:
        session = subject.open()
        subject.prefill(session, [1, 2, 3])
        case.refuses(lambda: subject.truncate(session, 4), field="position_count")

Fixtures. `case` (certify.case.Case) compares and remembers; `subject` (certify.subject.Subject, a Worker) has the model
loaded, `subject.model` is its descriptor, and is restarted after a crash; `oracle` (certify.oracle.Oracle) is the
float64 truth for the model;
`model_path` (pathlib.Path); `profile` (certify.profile.Profile; `profile["cache.uncached_x32"]` is a number);
`peers` (certify.plugin.Peers: `peers.names`, `peers[name] -> Worker` with the model loaded, started when first asked
for); `start` (callable: `start(model_path=None, backend=None, service="") -> Subject`, another child, perhaps with
another model, for geometry; it is shut down after the check).

What `case` does. Each comparison that does not hold raises at once (FAIL).
    case.exact(name, observed, expected)             bit equality of arrays, bytes, text, int lists -> EXACT
    case.within(name, value, limit, source, unit="") value <= limit; source is a key of the profile -> PASS
    case.at_least(name, value, limit, source)        value >= limit -> PASS
    case.holds(name, condition, observation)         a claim with what was seen -> PASS
    case.refuses(call, id="", field="")              refused explicitly, with that error id and/or field -> PASS
    case.worst_row(rows, reference, mantissa_bits)   -> units of u; remembered for the report; then use within()
    case.inconclusive_if(above, reason)              ask before comparing with the budget -> INCONCLUSIVE
    case.info(reason) / case.non_strict(reason)      at best INFO / NON_STRICT
    case.unsupported(reason, call)                   call must be refused -> UNSUPPORTED, ends the check
    case.skip(reason)                                -> SKIPPED, ends the check and blocks the level
    case.fail(observation)                           -> FAIL, ends the check
    case.measured(name, value, unit) / case.seal(name, value)  a number / a digest for the report and for replay
    case.finding(id, kind, statement, evidence, handled)       defect | property | trap | control; id: of findings.py
    case.exchanged(exporter, importer)               family X: that direction was exercised; L4 counts foreign engines
    case.rng(label)                                  numpy Generator from seed, case id and label only
    case.profile, case.seed, case.id, case.subject_name

How it ends. A check that comes to its end has the worst of its marks; with no mark it is a defect of the suite.
FAIL: a case method did not hold, an `assert` in a file of this package did not hold, or a ZeitgeistError came out of a
Worker. CRASH: the worker died or hung. Anything else is the suite's own defect: the case is SKIPPED (which blocks the
level) and the run ends with exit code 3. `needs` not claimed: the plugin asks the subject for the capability, which
it must
refuse: UNSUPPORTED; when it does not refuse: FAIL.

Parameters: `@pytest.mark.parametrize(..., ids=[...])` under `@check`; one of them from a higher level on:
`pytest.param(4096, marks=at_level("full"))`. A case id is the check id with the parameter: `N.boundary[4096]`.

Once written: break the code, see it fail.
'''
