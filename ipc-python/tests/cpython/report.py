"""The outcome of each test of a suite, as JSON."""

from __future__ import annotations

import json
import sys
import unittest


def run(chosen: unittest.TestSuite, path: str) -> None:
    """Run tests. Write the outcome of each into a file: `ok`, `failed` or the reason of a skip."""
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(_noting(chosen))
    outcomes = dict.fromkeys(_ran, "ok")
    outcomes.update({_name(test): f"skipped: {reason}" for test, reason in result.skipped})
    outcomes.update({_name(test): "failed" for test, _ in result.failures + result.errors})
    with open(path, "w", encoding="utf-8") as report:
        json.dump(outcomes, report)


_ran: list[str] = []


def _noting(chosen: unittest.TestSuite) -> unittest.TestSuite:
    _ran.extend(_name(test) for test in chosen)
    return chosen


def _name(test: object) -> str:
    """Return class and method, without the start method in the class's name."""
    if not isinstance(test, unittest.TestCase):
        return str(test)
    return ".".join(test.id().rsplit(".", 2)[-2:])
