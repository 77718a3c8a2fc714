"""joblib with one of its workers killed: every result arrives.

python joblib_kill.py
"""

import os
import signal
import tempfile
from pathlib import Path

import joblib

import ipc_queue.joblib  # noqa: F401


def work(n: int, folder: str) -> int:
    if n == 7:
        try:
            Path(folder, "died").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return n * n


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        joblib.parallel_config(backend="ipc", n_jobs=2, attempts=2),
    ):
        results = joblib.Parallel()(joblib.delayed(work)(n, folder) for n in range(20))
    assert results == [n * n for n in range(20)]
    print(f"20 results, sum {sum(results)}, though a worker was killed")
