"""Reports of a campaign: one self-contained page, JUnit, Allure results. All are made from records and predicates.

`certify.report.write(out, results, cells)` is what `zg-certify run` calls; `python -m certify.report DIR` makes the
reports of an earlier campaign again from its certificates and records.
"""

from certify.report.writer import write

__all__ = ["write"]
