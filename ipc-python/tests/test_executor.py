"""The executor: what the tests of `concurrent.futures` do not cover, and what differs."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import ipc_queue as ipc
from ipc_queue import ProcessPoolExecutor


def square(n):
    return n * n


def die(how=signal.SIGKILL):
    os.kill(os.getpid(), how)


def die_once(path):
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return "done"
    die()


def wait_for_ever(path):
    Path(path).write_text(str(os.getpid()))
    threading.Event().wait()


def pid(*_):
    return os.getpid()


def fail(text):
    raise ValueError(text)


def echo(value):
    return value


@pytest.fixture
def pool():
    with ProcessPoolExecutor(2) as pool:
        yield pool


def _wait_for(path):
    while not (path.exists() and path.read_text()):
        os.sched_yield()
    return path.read_text()


def test_calls_and_maps(pool):
    assert pool.submit(square, 7).result() == 49
    assert list(pool.map(square, range(50))) == [n * n for n in range(50)]
    assert list(pool.map(square, range(50), chunksize=7)) == [n * n for n in range(50)]
    assert pool.submit(pid).result() != os.getpid()


def test_a_dead_worker_fails_one_future_with_the_reason(pool):
    before = pool.submit(square, 2)
    dead = pool.submit(die)
    with pytest.raises(ipc.WorkerDied, match="KILL") as raised:
        dead.result(timeout=60)
    assert isinstance(raised.value, BrokenProcessPool)
    assert (raised.value.signal, raised.value.attempts) == (signal.SIGKILL, 1)
    assert before.result() == 4
    assert pool.submit(square, 3).result(timeout=60) == 9


def test_no_function_runs_twice_by_default(pool, tmp_path):
    with pytest.raises(ipc.WorkerDied):
        pool.submit(die_once, tmp_path / "once").result(timeout=60)
    with ProcessPoolExecutor(1, attempts=2) as patient:
        assert patient.submit(die_once, tmp_path / "twice").result(timeout=60) == "done"


def test_a_running_call_can_be_killed_alone(pool, tmp_path):
    stuck = pool.submit(wait_for_ever, tmp_path / "pid")
    worker = int(_wait_for(tmp_path / "pid"))
    assert not stuck.cancel()
    assert stuck.kill()
    with pytest.raises(concurrent.futures.CancelledError):
        stuck.result(timeout=60)
    assert pool.submit(square, 3).result(timeout=60) == 9
    assert not os.path.exists(f"/proc/{worker}") or worker not in dict(pool.workers).values()
    assert not stuck.kill()


def test_a_call_that_takes_too_long_fails_alone(tmp_path):
    with ProcessPoolExecutor(1, job_timeout=2) as pool:
        late = pool.submit(wait_for_ever, tmp_path / "pid")
        with pytest.raises(ipc.JobTimedOut) as raised:
            late.result(timeout=60)
        assert isinstance(raised.value, TimeoutError)
        assert pool.submit(square, 3).result(timeout=60) == 9


def test_waiting_calls_can_be_cancelled(tmp_path):
    with ProcessPoolExecutor(1) as pool:
        stuck = pool.submit(wait_for_ever, tmp_path / "pid")
        _wait_for(tmp_path / "pid")
        waiting = [pool.submit(square, n) for n in range(5)]
        assert all(future.cancel() for future in waiting)
        stuck.kill()
        assert pool.submit(square, 3).result(timeout=60) == 9
        assert all(future.cancelled() for future in waiting)


@pytest.mark.parametrize("size", [0, 1000, 70_000, 5 << 20])
def test_arguments_and_results_of_any_size(pool, size):
    payload = os.urandom(size)
    assert pool.submit(echo, payload).result(timeout=60) == payload


def test_exceptions_carry_the_workers_traceback(pool):
    with pytest.raises(ValueError, match="no good") as raised:
        pool.submit(fail, "no good").result()
    assert "in fail" in str(raised.value.__cause__)


def test_an_argument_that_cannot_be_pickled_fails_its_future(pool):
    with pytest.raises(Exception, match="pickle"):
        pool.submit(lambda: 1).result(timeout=60)
    with pytest.raises(Exception, match="pickle"):
        pool.submit(make_lock).result(timeout=60)
    assert pool.submit(square, 3).result(timeout=60) == 9


def make_lock():
    return threading.Lock()


def _set_up(value):
    global set_up
    set_up = value


def read_set_up():
    return set_up


def test_the_initializer_runs_in_each_worker():
    with ProcessPoolExecutor(2, initializer=_set_up, initargs=(7,)) as pool:
        assert {pool.submit(read_set_up).result(timeout=60) for _ in range(8)} == {7}


def test_an_initializer_that_fails_breaks_the_pool():
    with ProcessPoolExecutor(1, initializer=fail, initargs=("no database",)) as pool:
        with pytest.raises(BrokenProcessPool, match="no database"):
            pool.submit(square, 2).result(timeout=60)
        with pytest.raises(BrokenProcessPool):
            pool.submit(square, 2)


def test_workers_are_replaced_after_their_tasks():
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as pool:
        pids = [pool.submit(pid).result(timeout=60) for _ in range(6)]
    assert len(set(pids)) == 3


def test_workers_start_when_there_are_calls_for_them(tmp_path):
    with ProcessPoolExecutor(3) as pool:
        assert pool.workers == []
        for _ in range(3):
            pool.submit(square, 1).result(timeout=60)
        assert len(pool.workers) == 1
        stuck = [pool.submit(wait_for_ever, tmp_path / str(n)) for n in range(2)]
        for n in range(2):
            _wait_for(tmp_path / str(n))
        assert pool.submit(square, 1).result(timeout=60) == 1
        assert len(pool.workers) == 3
        for future in stuck:
            future.kill()


def say_goodbye(path):
    import atexit

    atexit.register(Path(path).write_text, "goodbye")
    # Not flushed: only an orderly end flushes it.
    kept.append(open(path + ".buffered", "w"))  # noqa: SIM115
    kept[-1].write("buffered")


kept: list = []


def test_exit_handlers_and_buffers_of_workers_are_not_lost(tmp_path):
    path = str(tmp_path / "said")
    with ProcessPoolExecutor(1) as pool:
        pool.submit(say_goodbye, path).result(timeout=60)
    assert Path(path).read_text() == "goodbye"
    assert Path(path + ".buffered").read_text() == "buffered"


def test_a_shut_down_executor_takes_no_calls(pool):
    future = pool.submit(square, 3)
    pool.shutdown()
    assert future.result(timeout=0) == 9
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(square, 3)


def test_submit_waits_while_too_many_calls_wait(monkeypatch, tmp_path):
    import ipc_queue.executor as executor

    monkeypatch.setattr(executor, "_MAX_WAITING", 2)
    with ProcessPoolExecutor(1) as pool:
        stuck = pool.submit(wait_for_ever, tmp_path / "pid")
        _wait_for(tmp_path / "pid")
        # The running call takes one place.
        waiting = [pool.submit(square, 2)]
        thread = threading.Thread(target=lambda: waiting.append(pool.submit(square, 3)))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        stuck.kill()
        thread.join(60)
        assert [future.result(timeout=60) for future in waiting] == [4, 9]


def test_shutting_down_ends_a_submit_that_waits(monkeypatch, tmp_path):
    import ipc_queue.executor as executor

    monkeypatch.setattr(executor, "_MAX_WAITING", 1)
    pool = ProcessPoolExecutor(1)
    stuck = pool.submit(wait_for_ever, tmp_path / "pid")
    _wait_for(tmp_path / "pid")
    raised = []

    def submit():
        try:
            pool.submit(square, 3)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=submit)
    thread.start()
    pool.shutdown(wait=False)
    thread.join(60)
    assert raised == ["cannot schedule new futures after shutdown"]
    stuck.kill()
    pool.shutdown()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="max_workers"):
        ProcessPoolExecutor(0)
    with pytest.raises(TypeError, match="initializer"):
        ProcessPoolExecutor(1, initializer=3)
    with pytest.raises(ValueError, match="max_tasks_per_child"):
        ProcessPoolExecutor(1, max_tasks_per_child=0)
    with pytest.raises(TypeError, match="max_tasks_per_child"):
        ProcessPoolExecutor(1, max_tasks_per_child="3")


def test_a_forked_copy_of_an_executor_refuses(pool):
    pool.submit(square, 3).result(timeout=60)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pool.submit(square, 3)
        except RuntimeError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.submit(square, 4).result(timeout=60) == 16


def test_ctrl_c_ends_a_wait_for_a_result(child, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        """
import threading
from ipc_queue import ProcessPoolExecutor

def wait(path):
    open(path, "w").write("began")
    threading.Event().wait()

if __name__ == "__main__":
    import sys
    pool = ProcessPoolExecutor(1)
    future = pool.submit(wait, sys.argv[1])
    try:
        print("ready", flush=True)
        future.result()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    future.kill()
    pool.shutdown()
    print("ended", flush=True)
"""
    )
    waiting = child(
        f"import sys, runpy; sys.argv = [{str(program)!r}, {str(tmp_path / 'path')!r}]; "
        f"runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    assert waiting.line() == "ready"
    _wait_for(tmp_path / "path")
    waiting.process.send_signal(signal.SIGINT)
    assert waiting.line() == "interrupted"
    assert waiting.line() == "ended"
    waiting.end()


def test_submitted_calls_are_done_before_a_program_ends(child, tmp_path):
    program = child(
        f"""
        import pathlib
        from ipc_queue import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1)
        pool.submit(pathlib.Path({str(tmp_path / "done")!r}).write_text, "done")
        """
    )
    program.end()
    assert (tmp_path / "done").read_text() == "done"


def test_workers_end_with_a_killed_program_and_its_folder_is_swept(child, tmp_path):
    program = child(
        """
        import glob, os, tempfile
        from ipc_queue import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1)
        print(pool.submit(os.getpid).result(), flush=True)
        input()
        """
    )
    worker = int(program.line())
    # Readable when the worker ends.
    ended = os.pidfd_open(worker)
    program.kill()
    import select

    assert select.select([ended], [], [], 60)[0]
    os.close(ended)
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(square, 3).result(timeout=60) == 9
