"""The suite itself, tested with planted bugs (W4): a bank of mutants, honest variants, and the self-test.

A mutant is the reference backend, or the service in front of it, with one method overridden; it is named as
`module:factory` or `module:Class` and runs in a child like any subject. Law: a mutant claims what the honest reference
claims, so that every check has its chance, and none is written with a check in mind that could be tuned to it.
"""

__all__: list[str] = []
