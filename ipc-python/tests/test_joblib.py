"""The joblib backend: killed workers, and the calls that joblib's users make."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

joblib = pytest.importorskip("joblib")

import ipc_queue.joblib  # noqa: E402
from ipc_queue import WorkerDied  # noqa: E402


@pytest.fixture(autouse=True)
def backend():
    with joblib.parallel_config(backend="ipc", n_jobs=2):
        yield


def square(n):
    return n * n


def die_once(path, n):
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return n
    os.kill(os.getpid(), signal.SIGKILL)


def test_calls_run_in_order():
    parallel = joblib.Parallel()
    assert parallel(joblib.delayed(square)(n) for n in range(100)) == [n * n for n in range(100)]
    assert parallel(joblib.delayed(lambda n: n + 1)(n) for n in range(3)) == [1, 2, 3]


def test_results_come_as_a_generator():
    for order in ("generator", "generator_unordered"):
        parallel = joblib.Parallel(return_as=order)
        results = parallel(joblib.delayed(square)(n) for n in range(20))
        assert sorted(results) == sorted(n * n for n in range(20))


def test_one_pool_serves_several_calls():
    with joblib.Parallel() as parallel:
        first = set(parallel(joblib.delayed(os.getpid)() for _ in range(8)))
        second = set(parallel(joblib.delayed(os.getpid)() for _ in range(8)))
        assert len(first | second) <= 2


def test_an_exception_is_raised_and_ends_the_call():
    with pytest.raises(ZeroDivisionError):
        joblib.Parallel()(joblib.delayed(divmod)(n, 0) for n in range(5))


def test_a_killed_worker_raises_or_is_retried(tmp_path):
    calls = [joblib.delayed(die_once)(tmp_path / "once", n) for n in range(4)]
    with pytest.raises(WorkerDied):
        joblib.Parallel(batch_size=1)(calls)
    calls = [joblib.delayed(die_once)(tmp_path / "twice", n) for n in range(4)]
    with joblib.parallel_config(backend="ipc", n_jobs=2, attempts=2):
        assert joblib.Parallel(batch_size=1)(calls) == [0, 1, 2, 3]


def test_numbers_of_jobs():
    backend = ipc_queue.joblib.IpcBackend()
    processors = len(os.sched_getaffinity(0))
    assert backend.effective_n_jobs(-1) == processors
    assert backend.effective_n_jobs(3) == 3
    with pytest.raises(ValueError, match="n_jobs"):
        backend.effective_n_jobs(0)
