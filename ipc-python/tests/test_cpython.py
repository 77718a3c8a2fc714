"""CPython's own tests, from the interpreter's `test` package, on our queues and our executor.

Each test that fails is in a table below, with the reason. A test that begins to pass, or another
one that fails, fails here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ipc_queue

FOLDER = Path(__file__).parent / "cpython"

QUEUES = {
    "test_queue_feeder_donot_stop_onexc": "what can't be pickled raises in put, to its caller",
    "test_closed": "looks at the ends of a pipe, which our queue does not have",
}
EXECUTOR = {
    "test_killed_child": "a worker's death fails its call only, and the pool goes on",
    "test_cancel_futures": "no call is begun ahead, so all that have not begun are cancelled",
    "test_processes_terminate": "all workers are started at the first call, not one for each call",
    "test_idle_process_reuse_one": "the same",
    "test_idle_process_reuse_multiple": "the same",
}
# Depend on how fast the machine is: they may pass.
MAY_PASS = {"test_cancel_futures", "test_idle_process_reuse_multiple", "test_killed_child"}


def _run(program: str, *arguments: str) -> dict[str, str]:
    """Run a suite. Return what became of each test."""
    environment = {**os.environ, "PYTHONPATH": str(Path(ipc_queue.__file__).parent.parent)}
    ended = subprocess.run(
        [sys.executable, str(FOLDER / program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=570,
    )
    outcomes = re.findall(
        r"^(test_\w+) \((?:[^)]*)\)(?:.*?) \.\.\. .*?(ok|ERROR|FAIL|skipped)",
        ended.stderr.replace("\n", "\n\n"),
        re.M,
    )
    failed = {
        name: "failed" for name in re.findall(r"^(?:ERROR|FAIL): (test_\w+)", ended.stderr, re.M)
    }
    ran = re.search(r"^Ran (\d+) tests", ended.stderr, re.M)
    assert ran, ended.stderr
    assert int(ran[1]) > 5
    return {"ran": ran[1], **dict(outcomes), **failed}


def _compare(outcomes: dict[str, str], expected: dict[str, str]) -> None:
    failed = {name for name, outcome in outcomes.items() if outcome == "failed"}
    print(f"{outcomes['ran']} tests, {len(failed)} differ as intended")
    assert failed - set(expected) == set()
    assert set(expected) - failed - MAY_PASS == set(), "these pass now: take them off the table"


def _skip_without(module: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"this interpreter lacks {module} (Debian: libpython3.11-testsuite)")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_queue_tests_of_multiprocessing_pass(method):
    _skip_without("test._test_multiprocessing")
    _compare(_run("run_queues.py", method), QUEUES)


def test_the_process_pool_tests_of_concurrent_futures_pass():
    _skip_without("test.test_concurrent_futures")
    # Our workers are started in the same way whatever the context is.
    _compare(_run("run_executor.py", "Spawn"), EXECUTOR)
