"""CPython's own tests, from the interpreter's `test` package, on our queues and our executor.

Each test that fails is in a table below, with the reason. A test that begins to pass, or another
one that fails, fails here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import suites

FOLDER = Path(__file__).parent / "cpython"

QUEUES = {
    "WithProcessesTestQueue.test_queue_feeder_donot_stop_onexc": (
        "what can't be pickled raises in `put`, to its caller"
    ),
    "TestSimpleQueue.test_closed": "looks at the ends of a pipe, which our queue does not have",
}
EXECUTOR = {
    "ProcessPoolExecutorTest.test_killed_child": (
        "a worker's death fails its call only, and the pool continues"
    ),
    "ProcessPoolShutdownTest.test_cancel_futures": (
        "no call is begun ahead, so all that have not begun are cancelled"
    ),
}
NOT_PICKLED = {
    test: "its calls can't be pickled and fail at once, so no worker starts"
    for test in (
        "ProcessPoolShutdownTest.test_processes_terminate",
        "ProcessPoolExecutorTest.test_saturation",
    )
}
BY_METHOD = {
    "Fork": {
        "FailingInitializerTest.test_initializer": (
            "locks of the `fork` context have no name, so a new program can't get them"
        ),
    },
    "Spawn": NOT_PICKLED,
    "Forkserver": NOT_PICKLED,
}
# Depend on how fast the machine is: they may pass.
MAY_PASS = {
    "ProcessPoolShutdownTest.test_cancel_futures",
    "ProcessPoolExecutorTest.test_killed_child",
}


def _skip_without(module: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"this interpreter lacks {module} (Debian: libpython3-testsuite)")


def _check(name: str, command: list[str], prefix: str, expected: dict[str, str]) -> None:
    suite = suites.started(command)
    outcomes = {test.removeprefix(prefix): what for test, what in suite.outcomes().items()}
    log = suite.log()
    suite.end()
    assert len(outcomes) > 5, log
    failed = {test for test, outcome in outcomes.items() if outcome == "failed"}
    surprising = sorted(failed - set(expected))
    if surprising:
        # These tests rely on sleeps and a fast machine: run them again, alone.
        again = suites.Suite([*command, *(prefix + test for test in surprising)])
        failed_again = {test for test, what in again.outcomes().items() if what == "failed"}
        log = again.log()
        again.end()
        assert failed_again == set(), log
        failed -= set(surprising)
    assert set(expected) - failed - MAY_PASS - _skipped(outcomes) == set(), (
        "these pass now: take them off the table"
    )
    suites.note(name, outcomes, {test: expected[test] for test in failed})


def _skipped(outcomes: dict[str, str]) -> set[str]:
    return {test for test, outcome in outcomes.items() if outcome.startswith("skipped")}


@pytest.mark.limit(suites.PATIENCE + 20)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_queue_tests_of_multiprocessing_pass(method):
    _skip_without("test._test_multiprocessing")
    command = [str(FOLDER / "run_queues.py"), method]
    _check(f"`_test_multiprocessing`, queues, {method}", command, "", QUEUES)


def _executor(method: str) -> list[str]:
    return [str(FOLDER / "run_executor.py"), method]


@pytest.mark.limit(2 * suites.PATIENCE)
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=pytest.mark.suite(*_executor(method)), id=method.lower())
        for method in BY_METHOD
    ],
)
def test_the_process_pool_tests_of_concurrent_futures_pass(method):
    _skip_without("test.test_concurrent_futures")
    name = f"`test_concurrent_futures`, process pools, {method.lower()}"
    prefix = f"ProcessPool{method}"
    _check(name, _executor(method), prefix, EXECUTOR | BY_METHOD[method])
