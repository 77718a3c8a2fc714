"""The examples: each is run, and loses nothing although one of its processes is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ipc_queue

FOLDER = Path(__file__).parent.parent / "examples"


def _run(name, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(ipc_queue.__file__).parent.parent)}
    ended = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_pattern_has_at_most_forty_lines():
    assert len((FOLDER / "pattern.py").read_text().splitlines()) <= 40


def test_the_pattern_ends_with_all_results():
    assert "100 results, sum 328350, exit codes [0, 0, 0, 0]" in _run("pattern.py")


def test_the_pattern_loses_nothing_when_a_worker_is_killed():
    said = _run("pattern.py", "--kill")
    assert "100 results, sum 328350" in said
    assert "exit codes [-9, 0, 0, 0]" in said
    assert "'worker-1': 'alive'" in said


def test_joblib_loses_nothing_when_a_worker_is_killed():
    pytest.importorskip("joblib")
    assert "20 results" in _run("joblib_kill.py")


def test_celery_loses_nothing_when_a_worker_is_killed():
    pytest.importorskip("celery")
    assert "20 of 20 tasks are done" in _run("celery_kill.py")
