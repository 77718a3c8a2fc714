"""Run CPython's own tests of `concurrent.futures` on our executor.

The tests come from the interpreter's `test` package, those of process pools under each start
method.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import sys
import unittest

import ipc_queue

concurrent.futures.ProcessPoolExecutor = ipc_queue.ProcessPoolExecutor  # type: ignore[misc]
concurrent.futures.process.ProcessPoolExecutor = ipc_queue.ProcessPoolExecutor  # type: ignore


def load() -> list[type[unittest.TestCase]]:
    """The test cases of process pools."""
    import importlib
    import pkgutil

    suite = importlib.import_module("test.test_concurrent_futures")
    modules = [suite]
    if hasattr(suite, "__path__"):
        names = [module.name for module in pkgutil.iter_modules(suite.__path__)]
        modules = [importlib.import_module(f"{suite.__name__}.{name}") for name in names]
    cases = {}
    for module in modules:
        for name, case in vars(module).items():
            is_case = isinstance(case, type) and issubclass(case, unittest.TestCase)
            if is_case and name.startswith("ProcessPool") and hasattr(case, "executor_type"):
                cases[name] = case
    return list(cases.values())


if __name__ == "__main__":
    wanted = sys.argv[1:]
    loader = unittest.TestLoader()
    chosen = unittest.TestSuite()
    for case in load():
        for test in loader.loadTestsFromTestCase(case):
            if not wanted or any(part in test.id() for part in wanted):
                chosen.addTest(test)
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(chosen)
    sys.exit(not result.wasSuccessful())
