"""Queues, queues of multiprocessing and the executor at a real NATS server, with kills."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import threading
import uuid

import pytest

import ipc_queue as ipc
from ipc_queue import mp

SERVER = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no nats-server")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nats")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert SERVER is not None
    process = subprocess.Popen(
        [SERVER, "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            os.sched_yield()
    yield f"nats://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def at(server):
    """The address of a queue that is removed after the test."""
    address = f"{server}/test-{uuid.uuid4().hex[:12]}"
    yield address
    ipc.remove(address)


def test_objects_batches_and_control(at):
    queue = ipc.Queue(at, codec="msgpack", attempt_limit=1)
    queue.put({"n": 1})
    queue.put_many([2, 3])
    assert queue.qsize() == 3
    with queue.get(30) as job:
        assert (job.data, job.attempt) == ({"n": 1}, 1)
    batch = queue.get_many(1, 30)
    assert [job.data for job in batch] == [2]
    batch[0].ack()
    with pytest.raises(RuntimeError), queue.get(30) as job:
        raise RuntimeError("no good")
    while not (letters := queue.dead_letters()):
        os.sched_yield()
    assert (letters[0].error, letters[0].data) == ("RuntimeError: no good", 3)
    assert letters[0].requeue()
    assert queue.take(30) == 3
    queue.pause()
    with pytest.raises(ipc.Empty):
        queue.get(0)
    queue.resume()
    queue.close()
    with pytest.raises(ipc.Closed):
        queue.put(4)


def test_a_killed_holders_message_goes_to_another_process(at, child):
    queue = ipc.Queue(at, codec="json", lease=2)
    queue.put("work")
    holder = child(
        """
        import sys, ipc_queue as ipc
        job = ipc.Queue(sys.argv[1]).get()
        print(job.attempt, flush=True)
        sys.stdin.readline()
        """,
        at,
    )
    assert holder.line() == "1"
    holder.kill()
    with queue.get(60) as job:
        assert (job.data, job.attempt) == ("work", 2)


def test_a_message_survives_its_killed_sender(at, child):
    sender = child(
        """
        import sys, ipc_queue as ipc
        ipc.Queue(sys.argv[1], codec="json").put([1, 2])
        print("sent", flush=True)
        sys.stdin.readline()
        """,
        at,
    )
    assert sender.line() == "sent"
    sender.kill()
    assert ipc.Queue(at).take(30) == [1, 2]


def test_waiting_does_not_block_other_threads_or_ctrl_c(at, child):
    queue = ipc.Queue(at, codec="json")
    received = []
    thread = threading.Thread(target=lambda: received.append(queue.take(60)))
    thread.start()
    queue.put("for the thread")
    thread.join(60)
    assert received == ["for the thread"]
    blocked = child(
        """
        import sys, ipc_queue as ipc
        queue = ipc.Queue(sys.argv[1])
        try:
            print("ready", flush=True)
            queue.get()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """,
        at,
    )
    assert blocked.line() == "ready"
    blocked.process.send_signal(signal.SIGINT)
    assert blocked.line() == "interrupted"
    blocked.end()


def test_asyncio(at):
    queue = ipc.Queue(at, codec="json")

    async def run():
        waiting = asyncio.create_task(queue.get_async(60))
        await queue.put_async("hello")
        async with await waiting as job:
            return job.data

    assert asyncio.run(run()) == "hello"


def test_pickles_are_refused_unless_allowed(at):
    with pytest.raises(ipc.PickleRefused, match="allow_pickle"):
        ipc.Queue(at, codec="pickle")
    with pytest.raises(ipc.NotFound):
        ipc.Queue(at, mode="open")
    for codec in ("msgpack", "json"):
        ipc.Queue(at, codec=codec).put([1, 2])
        assert ipc.Queue(at).take(30) == [1, 2]
        assert ipc.remove(at)
    queue = ipc.Queue(at, codec="pickle", allow_pickle=True)
    queue.put({1, 2})
    with pytest.raises(ipc.PickleRefused):
        ipc.Queue(at)
    with pytest.raises(ipc.PickleRefused):
        mp.Queue(at=at)
    with pytest.raises(ipc.PickleRefused):
        ipc.ProcessPoolExecutor(1, at=at)
    assert pickle.loads(pickle.dumps(queue)).take(30) == {1, 2}


def test_a_forked_copy_opens_the_queue_again(at):
    queue = ipc.Queue(at, codec="json")
    queue.put("before")
    job = queue.get(30)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            queue.put("from the copy")
            try:
                job.ack()
            except ipc.Forked:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert queue.take(30) == "from the copy"
    job.ack()


def test_a_missing_server_raises():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ipc.Unreachable):
        ipc.Queue(f"nats://127.0.0.1:{port}/jobs", codec="json")


def _double(numbers, doubled):
    while (n := numbers.get()) is not None:
        doubled.put(n * 2)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_queues_of_multiprocessing(server, method):
    context = multiprocessing.get_context(method)
    numbers, doubled = (mp.Queue(at=server, allow_pickle=True) for _ in range(2))
    worker = context.Process(target=_double, args=(numbers, doubled))
    worker.start()
    for n in [1, 2, 3, None]:
        numbers.put(n)
    assert [doubled.get(timeout=60) for _ in range(3)] == [2, 4, 6]
    worker.join(60)
    assert worker.exitcode == 0


def square(n):
    return n * n


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_executor_and_a_worker_that_is_killed(at):
    with ipc.ProcessPoolExecutor(2, at=at, allow_pickle=True) as pool:
        assert list(pool.map(square, range(20))) == [n * n for n in range(20)]
        dead = pool.submit(die)
        with pytest.raises(ipc.WorkerDied):
            dead.result(timeout=100)
        assert pool.submit(square, 3).result(timeout=60) == 9
