"""A check that kills the process which runs it, as a crash inside the checker would. Named on the command line only."""

import os
import signal

from certify.case import Case
from certify.registry import check


@check(id="Z.kills-its-checker", family="Z", clause="W1", expectation="never comes back", level="smoke")
def test_kills_its_checker(case: Case) -> None:
    """No record can come of it."""
    os.kill(os.getpid(), signal.SIGKILL)


@check(id="Z.lives", family="Z", clause="W1", expectation="comes back", level="smoke")
def test_lives(case: Case) -> None:
    """A neighbour."""
    case.exact("number", 1, 1)
