"""Run CPython's own tests of `concurrent.futures` on our executor.

    python run_executor.py Fork|Spawn|Forkserver REPORT [TEST...]

The tests of process pools under this start method, from the interpreter's `test` package.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import sys
import unittest

import ipc_queue

concurrent.futures.ProcessPoolExecutor = ipc_queue.ProcessPoolExecutor  # type: ignore[misc]
concurrent.futures.process.ProcessPoolExecutor = ipc_queue.ProcessPoolExecutor  # type: ignore


def load(method: str) -> list[type[unittest.TestCase]]:
    """Return the test cases of process pools under a start method."""
    import importlib
    import pkgutil

    prefix = "ProcessPool" + method

    suite = importlib.import_module("test.test_concurrent_futures")
    modules = [suite]
    if hasattr(suite, "__path__"):
        names = [module.name for module in pkgutil.iter_modules(suite.__path__)]
        modules = [importlib.import_module(f"{suite.__name__}.{name}") for name in names]
    cases = {}
    for module in modules:
        for name, case in vars(module).items():
            is_case = isinstance(case, type) and issubclass(case, unittest.TestCase)
            # ProcessPoolForkProcessPool... belongs to the method Fork, ProcessPoolForkserver...
            # does not.
            is_ours = name.startswith(prefix) and name[len(prefix) :][:1].isupper()
            if is_case and is_ours and hasattr(case, "executor_type"):
                cases[name] = case
    return list(cases.values())


if __name__ == "__main__":
    # Children that import this file get no report.
    import report

    method, path, *wanted = sys.argv[1:]
    loader = unittest.TestLoader()
    chosen = unittest.TestSuite()
    for case in load(method):
        for test in loader.loadTestsFromTestCase(case):
            if not wanted or any(test.id().endswith(part) for part in wanted):
                chosen.addTest(test)
    report.run(chosen, path)
