"""A backend of joblib whose workers may be killed.

    import joblib
    import ipc_queue.joblib  # registers the backend "ipc"

    with joblib.parallel_config(backend="ipc", n_jobs=4):
        joblib.Parallel()(joblib.delayed(work)(item) for item in items)

With `attempts=2` in `parallel_config`, a batch whose worker died is run once more instead of
failing the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from joblib._parallel_backends import (
    AutoBatchingMixin,
    ParallelBackendBase,
)
from joblib.parallel import register_parallel_backend

from .executor import ProcessPoolExecutor

try:
    import cloudpickle
except ModuleNotFoundError:  # Before 1.6, joblib brought its own.
    from joblib.externals import cloudpickle


class IpcBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs batches in the workers of a `ProcessPoolExecutor`."""

    supports_retrieve_callback = True
    supports_timeout = True
    supports_return_generator = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(self, attempts: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self._attempts = attempts
        self._executor: ProcessPoolExecutor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of workers; negative numbers count from the number of processors."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        processors = len(os.sched_getaffinity(0))
        return n_jobs if n_jobs > 0 else max(1, processors + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_options: Any) -> int:
        """Prepare for a call of `Parallel`."""
        self.parallel = parallel
        self._n_jobs = self.effective_n_jobs(n_jobs)
        self._executor = ProcessPoolExecutor(self._n_jobs, attempts=self._attempts)
        return self._n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Run a batch in a worker."""
        assert self._executor is not None
        future = self._executor.submit(_run, cloudpickle.dumps(func))
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the result of a batch, or raise what it raised."""
        return out.result()

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        """Wait for the result of a batch."""
        return out.result(timeout=timeout)

    def terminate(self) -> None:
        """End the workers."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=True)
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kill the workers; the batches that they run are no longer wanted."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.kill()
        if ensure_ready:
            self.configure(n_jobs=self._n_jobs, parallel=self.parallel)


def _run(batch: bytes) -> Any:
    return cloudpickle.loads(batch)()


register_parallel_backend("ipc", IpcBackend)
