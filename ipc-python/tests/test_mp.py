"""The queues of `multiprocessing`: what its own tests do not cover, and what differs."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_sharer as resource_sharer
import os
import pickle
import signal
import threading

import pytest

import ipc_queue as ipc
from ipc_queue import mp

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=METHODS)
def context(request):
    return multiprocessing.get_context(request.param)


def _double(numbers, doubled):
    while (n := numbers.get()) is not None:
        doubled.put(n * 2)


def test_the_readme_of_multiprocessing_works(context):
    numbers, doubled = mp.Queue(), mp.Queue(ctx=context)
    workers = [context.Process(target=_double, args=(numbers, doubled)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for n in range(100):
        numbers.put(n)
    results = sorted(doubled.get() for _ in range(100))
    for _ in workers:
        numbers.put(None)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert results == [n * 2 for n in range(100)]


def _take_and_die(tasks, holding):
    tasks.get()
    holding.put(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def test_task_done_is_the_acknowledgement(context):
    tasks, holding = mp.JoinableQueue(), mp.SimpleQueue()
    tasks.put("work")
    worker = context.Process(target=_take_and_die, args=(tasks, holding))
    worker.start()
    assert holding.get() == worker.pid
    worker.join()
    # multiprocessing's queue would have lost it, and `join` would wait forever.
    assert tasks.get(timeout=30) == "work"
    tasks.task_done()
    tasks.join()


def _hold(queue, ready):
    queue.get()
    ready.set()
    threading.Event().wait()


def test_a_killed_receiver_does_not_block_the_others():
    queue = mp.Queue()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    queue.put(1)
    worker = context.Process(target=_hold, args=(queue, ready))
    worker.start()
    ready.wait()
    worker.kill()
    worker.join()
    queue.put(2)
    assert queue.get(timeout=30) == 2


def test_an_object_that_cannot_be_pickled_raises_in_put():
    queue = mp.Queue()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        queue.put(lambda: None)
    assert queue.empty()


class Explosive:
    def __reduce__(self):
        return _explode, ()


def _explode():
    raise RuntimeError("it explodes")


@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue])
def test_an_object_that_cannot_be_unpickled_raises_once_in_get(kind):
    queue = kind()
    queue.put(Explosive())
    queue.put("next")
    with pytest.raises(RuntimeError, match="it explodes"):
        queue.get()
    assert queue.get() == "next"
    letters = ipc.Queue(queue.address).raw.dead_letters()
    assert [letter["error"] for letter in letters] == ["RuntimeError: it explodes"]


def test_a_queue_holds_many_objects_of_medium_size():
    queue = mp.Queue()
    for size, count in ((1000, 900), (100_000, 10)):
        # Nothing is received meanwhile.
        for _ in range(count):
            queue.put_nowait(bytes(size))
        for _ in range(count):
            assert len(queue.get()) == size


def test_an_object_larger_than_half_of_the_memory_raises_in_put():
    queue = mp.Queue(memory=2 << 20)
    with pytest.raises(ipc.TooLarge) as raised:
        queue.put(bytes(2 << 20))
    assert raised.value.most == 1 << 20
    queue.put(bytes(900_000))
    assert len(queue.get()) == 900_000


def test_a_put_that_waits_without_a_receiver_warns(monkeypatch):
    monkeypatch.setattr(mp, "_WARN_AFTER", 0.01)
    queue = mp.Queue(1)
    queue.put(1)
    with pytest.warns(RuntimeWarning, match="larger maxsize"), pytest.raises(ipc.Full):
        queue.put(2, timeout=0.05)


def test_task_done_too_often_raises():
    with pytest.raises(ValueError, match="too many times"):
        mp.JoinableQueue().task_done()


def test_a_place_is_free_after_task_done():
    queue = mp.JoinableQueue(1)
    queue.put(1)
    assert queue.get() == 1
    with pytest.raises(ipc.Full):
        queue.put_nowait(2)
    queue.task_done()
    queue.put_nowait(2)


def test_a_closed_queue_raises_value_error():
    queue = mp.Queue()
    queue.close()
    queue.join_thread()
    for call in (lambda: queue.put(1), queue.get):
        with pytest.raises(ValueError, match="is closed"):
            call()


def test_connections_travel_in_queues(context):
    queue = mp.Queue()
    ours, theirs = context.Pipe()
    worker = context.Process(target=_answer, args=(queue,))
    worker.start()
    queue.put(theirs)
    assert ours.recv() == "here"
    worker.join()
    ours.close()
    theirs.close()
    # The thread that hands out descriptors.
    resource_sharer.stop()


def _answer(queue):
    queue.get().send("here")


def test_a_queue_is_removed_with_its_creator():
    queue = mp.Queue()
    address = queue.address
    del queue
    with pytest.raises(ipc.NotFound):
        ipc.Queue(address, mode="open")


def test_the_queues_of_killed_programs_are_swept(child):
    creator = child(
        """
        from ipc_queue import mp
        queue = mp.Queue()
        print(queue.address, flush=True)
        input()
        """
    )
    address = creator.line()
    creator.kill()
    mp.Queue()
    with pytest.raises(ipc.NotFound):
        ipc.Queue(address, mode="open")


def test_a_queue_that_a_child_is_about_to_open_stays(child):
    # The creator drops its last reference before the child has begun.
    program = child(
        """
        import multiprocessing, sys, types
        import ipc_queue.mp as mp

        def main():
            results = mp.Queue()
            queue = mp.Queue()
            queue.put("kept")
            worker = multiprocessing.get_context("fork").Process(
                target=lambda: results.put(queue.get(timeout=30))
            )
            worker.start()
            del queue, worker
            print(results.get(timeout=60), flush=True)

        main()
        """
    )
    assert program.line() == "kept"
    program.end()


@pytest.mark.parametrize("method", METHODS)
def test_a_program_that_ends_leaves_no_queues(child, tmp_path, method):
    path = tmp_path / "program.py"
    path.write_text(
        f"""
import multiprocessing
import ipc_queue.mp as mp

def work(tasks, results):
    while (task := tasks.get()) is not None:
        results.put(task)
        tasks.task_done()
    tasks.task_done()

if __name__ == "__main__":
    tasks, results = mp.JoinableQueue(), mp.SimpleQueue()
    context = multiprocessing.get_context({method!r})
    workers = [context.Process(target=work, args=(tasks, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for task in ["a", "b", None, None]:
        tasks.put(task)
    tasks.join()
    print(sorted([results.get(), results.get()]), tasks.address, flush=True)
"""
    )
    program = child(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')")
    *_, address = program.line().split()
    program.end()
    with pytest.raises(ipc.NotFound):
        ipc.Queue(address, mode="open")


def test_numbers_of_places():
    queue = mp.Queue(3)
    assert queue.empty() and not queue.full()
    for n in range(3):
        queue.put_nowait(n)
    assert queue.full() and queue.qsize() == 3
    with pytest.raises(ipc.Full):
        queue.put_nowait(3)
    assert [queue.get_nowait() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ipc.Empty):
        queue.get_nowait()
    with pytest.raises(ValueError, match="maxsize must be <= 1048576"):
        mp.Queue(1 << 30)
