"""An executor with the methods of `concurrent.futures.ProcessPoolExecutor`.

A worker's death fails one future, at once and with the reason. The pool continues.
Running calls can be ended alone, by `Future.kill` or by `job_timeout`.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import fcntl
import itertools
import multiprocessing
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from . import _arguments, _ipc, _system, _worker, codecs
from .errors import Error, JobTimedOut, PoolEnded, WorkerDied

# The largest call in the queue: larger ones are in files.
_MAX_CALL = 2 * _worker.SPILL_FROM
_MAX_WAITING = 4096
_MOST_WORKERS = 1 << 16
_MEMORY = 32 << 20
# How often the executor's thread checks whether the pool has ended.
_SLICE = 0.1
# How long `_processes` waits for workers that are being started.
_STARTED_WITHIN = 5.0
_FOLDER = "ipc-queue-pool-"
# The pool ends by itself when all calls are done, however long they take.
_FOREVER = 1e9

_live: weakref.WeakSet[_State] = weakref.WeakSet()


class Future(concurrent.futures.Future):  # type: ignore[type-arg]
    """A future whose call can be ended while it runs."""

    # The number of this future's job in its pool, until it is answered.
    _job: int | None = None
    _pool: weakref.ref[_ipc.RawPool] | None = None
    # The name of the file that has the arguments.
    _spilled: str | None = None

    def cancel(self) -> bool:
        """Cancel the call if it has not begun."""
        cancelled = super().cancel()
        if cancelled:
            self._end()
        return cancelled

    def kill(self) -> bool:
        """End the call, even if it runs: its worker is killed, and another takes its place.

        The future then raises `CancelledError`. `False`: the call is done already.
        """
        if self.cancel():
            return True
        if self.done():
            return False
        self._end()
        return True

    def _end(self) -> None:
        job, self._job = self._job, None
        pool = None if self._pool is None else self._pool()
        if job is not None and pool is not None:
            with contextlib.suppress(Exception):
                pool.cancel(job)


class ProcessPoolExecutor(concurrent.futures.Executor):
    """Runs functions in worker processes.

    Takes the arguments of `concurrent.futures.ProcessPoolExecutor`, and by name only:

    - `attempts`: how many workers may die over a call before its future fails. With the default of
    1 no function is run twice.
    - `job_timeout`: how many seconds a call may take. Then its worker is killed, and its future
      raises `JobTimedOut`.
    - `max_memory`: how many bytes of memory a worker may use. Then it is killed.
    - `startup_timeout`: how many seconds a worker may take to start.
    - `at`: the address of the pool's queues, such as `nats://HOST/NAME`; by default in shared
      memory. Calls are pickles, so `nats:` needs `allow_pickle=True`.

    Workers are new programs, never forks, whatever `mp_context` says. Each is started when more
    calls are open than workers were started; with a `fork` context, all at the first `submit`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        attempts: int = 1,
        job_timeout: float | None = None,
        max_memory: int | None = None,
        startup_timeout: float = 60.0,
        at: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        if at is not None and not allow_pickle:
            codecs.refuse_pickle(at, "pickle")
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        if isinstance(max_workers, int) and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        max_workers = _arguments.whole("max_workers", max_workers, 1, _MOST_WORKERS)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            _arguments.whole("max_tasks_per_child", max_tasks_per_child, 1, sys.maxsize)
            if _start_method(mp_context) == "fork":
                raise ValueError("max_tasks_per_child is incompatible with the 'fork' start method")
        settings = {
            "max_jobs": max_tasks_per_child or 0,
            "attempts": _arguments.whole("attempts", attempts, 1, 255),
            "job_timeout": _seconds("job_timeout", job_timeout),
            "max_memory": max_memory,
            "startup_timeout": _seconds("startup_timeout", startup_timeout),
            "at": at,
            "grace": 0.0,
            # As in the standard library.
            "on_demand": _start_method(mp_context) != "fork",
            "drain_timeout": _FOREVER,
            "capacity": _MAX_WAITING,
            "message_bytes": (_MAX_CALL, _MEMORY),
        }
        if max_memory is not None:
            _arguments.whole("max_memory", max_memory, 1, sys.maxsize)
        given = {name: value for name, value in settings.items() if value is not None}
        self._max_workers = max_workers
        self._mp_context = mp_context or multiprocessing.get_context("spawn")
        self._state = _State(max_workers, (initializer, initargs), given)
        # An executor that is no longer referenced ends when its calls are done.
        self._finalizer = weakref.finalize(self, self._state.close)
        self._finalizer.atexit = False
        _live.add(self._state)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run `fn(*args, **kwargs)` in a worker.

        Waits while more than 4,096 calls wait for workers.
        """
        return self._state.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[Any]:
        """Run `fn` for each item, in batches of `chunksize`. Return the results in order."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1 and not options:
            return super().map(fn, *iterables, timeout=timeout)
        if len(iterables) == 1:
            call, items = _RunChunk(fn), iter(iterables[0])
        else:
            call, items = _RunChunkOfTuples(fn), zip(*iterables, strict=False)
        results = super().map(call, _chunks(items, chunksize), timeout=timeout, **options)
        return _flattened(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. With `wait`, wait until all are done and the workers have ended."""
        self._state.close(cancel_futures=cancel_futures)
        if wait:
            self._state.join()

    def kill(self) -> None:
        """End now: workers are killed, and open futures raise `PoolEnded`."""
        self._state.kill()

    @property
    def workers(self) -> list[tuple[int, int]]:
        """Return the present workers: their numbers in the pool and their process ids."""
        return self._state.workers()

    # Names that are private in the standard library, but that programs use anyway.

    @property
    def _processes(self) -> dict[int, _Worker]:
        return {pid: _Worker(pid) for pid in self._state.started()}

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._state._thread

    @property
    def _call_queue(self) -> _NoQueue:
        return _NoQueue()

    @property
    def _broken(self) -> str | bool:
        return self._state._broken or False

    def __repr__(self) -> str:
        return f"<ProcessPoolExecutor with {self._max_workers} workers>"


def _start_method(context: Any) -> str | None:
    method = getattr(context, "get_start_method", None)
    return None if method is None else method(allow_none=False)


def _seconds(name: str, value: float | None) -> float | None:
    return None if value is None else _arguments.seconds(name, value)


class _Worker:
    """A worker's process, with the methods of `multiprocessing.Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._descriptor: int | None = os.pidfd_open(pid)
        except OSError:  # It has ended.
            self._descriptor = None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended."""
        if self._descriptor is not None:
            select.select([self._descriptor], [], [], timeout)

    def is_alive(self) -> bool:
        """Return whether the process still runs."""
        return self._descriptor is not None and not select.select([self._descriptor], [], [], 0)[0]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


class _NoQueue:
    """Stands in for a queue with a thread. There is no thread to wait for."""

    def join_thread(self) -> None:
        """Return at once."""


class _State:
    """State shared by an executor and its thread. The thread does not keep the executor alive."""

    def __init__(
        self, workers: int, initializer: tuple[Any, tuple[Any, ...]], settings: dict[str, Any]
    ) -> None:
        self._workers = workers
        self._initializer = initializer
        self._settings = settings
        # Held while the pool is started.
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._pool: _ipc.RawPool | None = None
        self._weak_pool: weakref.ref[_ipc.RawPool] | None = None
        self._folder: _Folder | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._broken: str | None = None

    def submit(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future:
        self._check_open()
        pool, folder = self._pool, self._folder
        if pool is None or folder is None:
            pool, folder = self._started()
        future = Future()
        try:
            body, spilled = _worker.pack(folder.path, (fn, args, kwargs))
        except BaseException as error:
            # Its folder is removed with the pool.
            self._check_open()
            # As in the standard library, an argument that can't be pickled fails its future.
            future.set_exception(error)
            return future
        future._pool, future._spilled = self._weak_pool, spilled
        try:
            future._job = pool.submit(body, future)
        except PoolEnded as error:
            folder.remove_file(spilled)
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown") from error
            self._broken = str(error)
            raise
        except BaseException:
            folder.remove_file(spilled)
            raise
        return future

    def _started(self) -> tuple[_ipc.RawPool, _Folder]:
        with self._lock:
            # Another thread may have started or closed it.
            self._check_open()
            if self._pool is None:
                self._start()
            assert self._pool is not None and self._folder is not None
            return self._pool, self._folder

    def _check_open(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("this executor was made before the fork: make another one here")
        if self._broken is not None:
            raise PoolEnded(self._broken)
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _shutting_down:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _start(self) -> None:
        folder = None
        try:
            folder = _Folder()
            pool = self._start_pool(folder)
        except BaseException as error:
            if folder is not None:
                folder.remove()
            if isinstance(error, OSError) and not isinstance(error, Error):
                raise _system.refused("the pool can't be started", error) from error
            raise
        self._weak_pool = weakref.ref(pool)
        self._folder = folder
        # Set last: from now on other threads submit to it.
        self._pool = pool
        self._thread = threading.Thread(
            target=_listen, args=(self, pool), name="ipc-executor", daemon=True
        )
        self._thread.start()

    def _start_pool(self, folder: _Folder) -> _ipc.RawPool:
        from multiprocessing import spawn, util

        initializer = folder.dumps(self._initializer)
        preparation = spawn.get_preparation_data("ipc-worker")
        start = {"preparation": preparation, "initializer": initializer}
        (folder.path / "start").write_bytes(folder.dumps(start))
        package = str(Path(__file__).resolve().parent.parent)
        program = (
            f"import sys; sys.path.append({package!r}); from ipc_queue._worker import main; main()"
        )
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
        command = [sys.executable, *flags, "-c", program, str(folder.path)]
        return _ipc.RawPool(self._workers, command, self._settings)

    def _hear(self, event: Any) -> None:
        """Apply the outcome of a call to its future."""
        future, what, detail, signal, attempts = event
        if what == "begun":
            with contextlib.suppress(Exception):
                future.set_running_or_notify_cancel()
            return
        future._job = None
        folder = self._folder
        assert folder is not None
        if future._spilled is not None:
            folder.remove_file(future._spilled)
        _answer(future, folder, what, detail, signal, attempts)

    def _ended(self, pool: _ipc.RawPool, reason: str | None) -> None:
        """Handle the end of the pool: no more events come."""
        self._broken = self._broken or (None if self._closed and not reason else reason)
        for future in pool.forget_open():
            _fail(future, PoolEnded(reason or "the pool ended"))
        if self._folder is not None:
            self._folder.remove()
        # Releases its memory.
        self._pool = None

    def close(self, *, cancel_futures: bool = False) -> None:
        if self._owner != os.getpid():
            return
        pool = self._begin_to_end()
        if cancel_futures and pool is not None:
            for future in pool.open_futures():
                future.cancel()
        if pool is not None:
            with contextlib.suppress(Exception):
                pool.close()

    def kill(self) -> None:
        if self._owner != os.getpid():
            return
        pool = self._begin_to_end()
        if pool is not None:
            pool.kill()
        self.join()

    def _begin_to_end(self) -> _ipc.RawPool | None:
        """Accept no more calls. Return the pool, if it was started and has not ended."""
        self._closed = True
        if self._pool is None:
            # It may be starting. If it runs, do not wait for its lock: the owner may wait for room
            # in the queue of calls.
            with self._lock:
                pass
        return self._pool

    def join(self) -> None:
        thread = self._thread
        if thread is None or self._owner != os.getpid():
            return
        if thread is not threading.current_thread():
            thread.join()

    def started(self) -> list[int]:
        """Return the workers' process ids, once as many are there as are started for now.

        The pool's own thread starts them some moments after `submit`: one for each open call if
        they are started on demand, and otherwise all.
        """
        end = time.monotonic() + _STARTED_WITHIN
        while True:
            pool = self._pool
            workers = self.workers()
            if pool is None:
                wanted = 0
            elif self._settings["on_demand"]:
                wanted = min(self._workers, len(pool.open_futures()))
            else:
                wanted = self._workers
            if len(workers) >= wanted or time.monotonic() > end:
                return [pid for _, pid in workers]
            time.sleep(0.001)

    def workers(self) -> list[tuple[int, int]]:
        pool = self._pool
        return [] if pool is None else [(row[0], row[2]) for row in pool.workers()]


class _Inherited:
    """Carries a descriptor that workers inherit, for pickling."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def detach(self) -> int:
        """Return the descriptor."""
        return self._descriptor


class _Folder:
    """The folder of a pool: what workers need to start, and large arguments and results.

    Its lock is held as long as its process lives, so others can remove a killed process's folder.
    """

    def __init__(self) -> None:
        _sweep()
        self._inherited: list[int] = []
        self.path = Path(tempfile.mkdtemp(prefix=_FOLDER))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def dumps(self, value: Any) -> bytes:
        """Pickle what each worker gets at its start: locks, pipes and the like."""
        from multiprocessing import context
        from multiprocessing.reduction import ForkingPickler

        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            return bytes(ForkingPickler.dumps(value))
        finally:
            context.set_spawning_popen(None)

    # The interface that multiprocessing expects of a process that is being started.
    DupFd = _Inherited

    def duplicate_for_child(self, descriptor: int) -> int:
        """Return a copy of a descriptor that all workers inherit."""
        copy = os.dup(descriptor)
        os.set_inheritable(copy, True)
        self._inherited.append(copy)
        return copy

    def remove_file(self, name: str | None) -> None:
        if name is not None:
            (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            for descriptor in (self._lock, *self._inherited):
                os.close(descriptor)
            self._lock = -1


def _sweep() -> None:
    """Remove the folders that killed processes left."""
    for path in Path(tempfile.gettempdir()).glob(_FOLDER + "*"):
        with contextlib.suppress(OSError):
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _listen(state: _State, pool: _ipc.RawPool) -> None:
    """The executor's thread: receives the outcomes of jobs until the pool has ended."""
    reason = None
    try:
        while True:
            has_ended = pool.has_ended
            events = pool.events(_SLICE)
            if has_ended and not events:
                break
            # Do not keep a future, and so a result, after it is set.
            events.reverse()
            while events:
                state._hear(events.pop())
        reason = pool.wait()
    except Exception as error:  # The pool is unusable: every future must hear of it.
        reason = str(error)
    finally:
        state._ended(pool, reason)


def _answer(
    future: Future, folder: _Folder, what: str, detail: Any, signal: int | None, attempts: int
) -> None:
    if what == "done":
        try:
            is_result, value = _worker.unpack(folder.path, detail, remove=True)
        except BaseException as error:
            _fail(future, error)
            return
        if is_result:
            try:
                future.set_result(value)
            except concurrent.futures.InvalidStateError:
                # It was cancelled; this notifies its waiters.
                _begin(future)
        else:
            _fail(future, value)
    elif what == "died":
        died = WorkerDied(
            "A process in the process pool was terminated abruptly while the future was running "
            f"or pending: {detail}"
        )
        died.signal, died.attempts = signal, attempts
        _fail(future, died)
    elif what == "timed out":
        _fail(future, JobTimedOut(detail))
    elif what == "cancelled":
        _fail(future, CancelledError(detail))
    elif what == "ended":
        _fail(future, PoolEnded(detail))
    else:
        _fail(future, RuntimeError(detail))


def _begin(future: Future) -> bool:
    """Mark a future as running, unless it was cancelled."""
    if future.running():
        return True
    try:
        return future.set_running_or_notify_cancel()
    except Exception:  # It is done already.
        return False


def _fail(future: Future, error: BaseException) -> None:
    if _begin(future):
        future.set_exception(error)


class _RunChunk:
    """Calls a function for each item of a chunk."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, chunk: tuple[Any, ...]) -> list[Any]:
        return list(map(self.fn, chunk))


class _RunChunkOfTuples(_RunChunk):
    """Like `_Chunk`, for a function with several arguments."""

    def __call__(self, chunk: tuple[Any, ...]) -> list[Any]:
        return list(itertools.starmap(self.fn, chunk))


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk


def _flattened(results: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in results:
        chunk.reverse()
        # Do not keep a result after handing it out.
        yield from map(list.pop, itertools.repeat(chunk, len(chunk)))


_shutting_down = False


def _at_exit() -> None:
    global _shutting_down
    _shutting_down = True
    states = list(_live)
    for state in states:
        state.close()
    for state in states:
        state.join()


# Runs before Python joins its own threads, so that submitted calls are done first.
try:
    threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
except (AttributeError, RuntimeError):
    atexit.register(_at_exit)
