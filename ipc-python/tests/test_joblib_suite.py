"""joblib's own tests of `Parallel`, from its package, on our backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ipc_queue

pytest.importorskip("joblib.test.test_parallel")

# These tests put workers of another backend in between, which have not imported ours.
EXPECTED = {"test_nested_loop[loky-ipc]", "test_nested_loop[back_compat_backend-ipc]"}


def test_the_tests_of_joblib_pass(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(ipc_queue.__file__).parent.parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ipc_queue.joblib", "-p"]
    command += ["no:cacheprovider", "--pyargs", "joblib.test.test_parallel", "-k", "ipc"]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    failed = set(re.findall(r"^FAILED \S*::(\S+)", ended.stdout, re.M))
    assert failed <= EXPECTED, ended.stdout
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed and int(passed[1]) >= 70, ended.stdout
