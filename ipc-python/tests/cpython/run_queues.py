"""Run CPython's own tests of multiprocessing's queues on `ipc_queue.mp`.

    python run_queues.py fork|spawn|forkserver REPORT [TEST...]

The tests come from the interpreter's `test` package. Children import this file again, so it
replaces the queues at import.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import unittest

import ipc_queue.mp

METHOD = os.environ.setdefault("IPC_TEST_START_METHOD", sys.argv[1])


def load() -> dict[str, type[unittest.TestCase]]:
    """Return the tests of queues, run on our queues."""
    from test import _test_multiprocessing as suite

    for name in ("Queue", "JoinableQueue", "SimpleQueue"):
        ours = staticmethod(getattr(ipc_queue.mp, name))
        setattr(multiprocessing, name, getattr(ipc_queue.mp, name))
        if hasattr(suite.ProcessesMixin, name):
            setattr(suite.ProcessesMixin, name, ours)
    tests: dict[str, type[unittest.TestCase]] = {"__name__": __name__}  # type: ignore[dict-item]
    suite.install_tests_in_module_dict(tests, METHOD)
    return tests


_tests = load()
# Children unpickle these by name.
globals().update({name: case for name, case in _tests.items() if name != "__name__"})
_CASES = ("WithProcessesTestQueue", "TestSimpleQueue", "_TestQueue")

if __name__ == "__main__":
    import report

    multiprocessing.set_start_method(METHOD, force=True)
    path, *wanted = sys.argv[2:]
    loader = unittest.TestLoader()
    chosen = unittest.TestSuite()
    for case in [_tests[name] for name in _CASES if name in _tests]:
        for test in loader.loadTestsFromTestCase(case):
            if not wanted or any(test.id().endswith(part) for part in wanted):
                chosen.addTest(test)
    _tests["setUpModule"]()  # type: ignore[operator]
    report.run(chosen, path)
