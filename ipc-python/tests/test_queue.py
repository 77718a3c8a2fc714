"""The queue: what it promises, with real processes that are killed."""

from __future__ import annotations

import asyncio
import dataclasses
import glob
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import ipc_queue as ipc


def test_a_message_survives_the_death_of_its_sender(address, child):
    sender = child(
        """
        import sys, ipc_queue as ipc
        ipc.Queue(sys.argv[1]).put({"path": "a.jpg"})
        print("sent", flush=True)
        sys.stdin.readline()
        """,
        address,
    )
    assert sender.line() == "sent"
    sender.kill()
    with ipc.Queue(address).get(10) as job:
        assert job.data == {"path": "a.jpg"}


def test_a_killed_holders_message_goes_to_another_process(address, child):
    queue = ipc.Queue(address)
    queue.put("work")
    holder = child(
        """
        import sys, ipc_queue as ipc
        job = ipc.Queue(sys.argv[1]).get()
        print(job.attempt, flush=True)
        sys.stdin.readline()
        """,
        address,
    )
    assert holder.line() == "1"
    with pytest.raises(ipc.Empty):
        queue.get(0)
    holder.kill()
    with queue.get(10) as job:
        assert (job.data, job.attempt) == ("work", 2)
    assert queue.stats().crashes == 1


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, 2**70, "text", b"bytes", [1, (2, 3)], {"a": {"b": None}}, 1.5, {1, 2}],
    ids=repr,
)
def test_pickled_objects_arrive_equal(address, value):
    queue = ipc.Queue(address)
    queue.put(value)
    assert queue.take(1) == value


def test_arrays_arrive_equal_and_writable(address):
    numpy = pytest.importorskip("numpy")
    queue = ipc.Queue(address)
    sent = [numpy.arange(n, dtype="f8").reshape(-1, 2) for n in (2, 5000, 40_000)]
    queue.put(sent)
    for before, after in zip(sent, queue.take(1), strict=True):
        assert (before == after).all()
        after[0] = 7


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_plain_values_arrive_equal_in_structured_codecs(address, codec):
    queue = ipc.Queue(address, codec=codec, max_message_bytes=4 << 20)
    values = [
        None,
        True,
        0,
        127,
        128,
        255,
        256,
        65535,
        65536,
        2**32,
        2**63,
        -1,
        -32,
        -33,
        -128,
        -129,
        -40_000,
        -(2**31) - 1,
        -(2**63),
        1.5,
        "ä" * 40,
        "long" * 20_000,
        [],
        list(range(20)),
        list(range(70_000)),
        {"a": [1, {"b": None}], "c": "d"},
        {str(n): n for n in range(70_000)},
    ]
    queue.put(values)
    assert queue.take(1) == values


def test_msgpack_carries_bytes(address):
    queue = ipc.Queue(address, codec="msgpack")
    value = {"short": b"a", "long": bytes(70_000), "none": b""}
    queue.put(value)
    assert queue.take(1) == value


@dataclasses.dataclass
class Size:
    width: int
    height: int


@dataclasses.dataclass
class Job:
    path: str
    size: Size
    others: list[Size]
    note: str | None = None


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_records_arrive_as_records(address, codec):
    queue = ipc.Queue(address, codec=codec, type=Job)
    job = Job("a.jpg", Size(1, 2), [Size(3, 4)])
    queue.put(job)
    assert queue.take(1) == job
    assert queue.raw.payload == f"{codec}:Job"


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_fields_that_the_type_lacks_are_ignored(address, codec):
    new = ipc.Queue(address, codec=codec, type_name="Size")
    new.put({"width": 1, "height": 2, "depth": 3})
    assert ipc.Queue(address, type=Size).take(1) == Size(1, 2)


def test_a_value_that_cannot_be_encoded_raises_in_put(address):
    queue = ipc.Queue(address)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        queue.put(lambda: None)
    assert queue.qsize() == 0
    for codec in ("json", "msgpack"):
        ipc.remove(address)
        with pytest.raises(ipc.EncodeError, match="set"):
            ipc.Queue(address, codec=codec).put({1, 2})
    with pytest.raises(ipc.EncodeError):
        ipc.Queue(address, codec="msgpack").put(2**64)
    ipc.remove(address)
    with pytest.raises(ipc.EncodeError):
        ipc.Queue(address, codec="bytes").put("text")


def test_an_oversized_message_raises_with_the_limit(address):
    queue = ipc.Queue(address, codec="bytes", max_message_bytes=1000)
    with pytest.raises(ipc.TooLarge) as raised:
        queue.put(bytes(1001))
    assert (raised.value.bytes, raised.value.most) == (1001, 1000)
    assert "max_message_bytes" in str(raised.value)


def test_another_codec_is_refused_and_named(address):
    ipc.Queue(address, codec="json")
    for codec in ("pickle", "bytes", "msgpack"):
        with pytest.raises(ipc.CodecDiffers, match="json"):
            ipc.Queue(address, codec=codec)
    assert ipc.Queue(address).codec.name == "json"


def test_another_type_is_refused_and_named(address):
    ipc.Queue(address, codec="json", type=Job)
    with pytest.raises(ipc.CodecDiffers, match="json:Job.*json:Size"):
        ipc.Queue(address, codec="json", type=Size)


def test_a_damaged_message_raises_and_is_returned(address):
    ipc.Queue(address, codec="json").raw.put(b"{not json")
    queue = ipc.Queue(address)
    with pytest.raises(ipc.DecodeError, match="json"), queue.get(1) as job:
        print(job.data)
    assert queue.stats().nacked == 1


@pytest.mark.parametrize(
    "damage", [b"\0", b"\0ipcbuf\1", b"\0ipcbuf\1" + b"\xff" * 8, b"\0ipcbuf\1" + b"\1" * 40]
)
def test_damaged_frames_of_pickles_raise(address, damage):
    queue = ipc.Queue(address)
    queue.raw.put(damage)
    with queue.get(1) as job, pytest.raises(ipc.DecodeError):
        print(job.data)


@pytest.mark.parametrize(
    "damage", [b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xa5ab", b"\x92\x01", b"\x01\x01", b"\x91" * 999]
)
def test_damaged_msgpack_raises(address, damage):
    queue = ipc.Queue(address, codec="msgpack")
    queue.raw.put(damage)
    with queue.get(1) as job, pytest.raises(ipc.DecodeError):
        print(job.data)


def test_an_exception_in_the_block_nacks_the_message_with_the_reason(address):
    queue = ipc.Queue(address, attempt_limit=1)
    queue.put("bad")
    with pytest.raises(RuntimeError), queue.get(1):
        raise RuntimeError("the disk is full")
    (letter,) = queue.dead_letters()
    assert (letter.reason, letter.error) == ("nacked", "RuntimeError: the disk is full")
    assert letter.data == "bad"
    assert letter.requeue()
    assert queue.take(1) == "bad"


def test_a_delivery_is_settled_once(address):
    queue = ipc.Queue(address)
    queue.put(1)
    job = queue.get(1)
    job.ack()
    with pytest.raises(ipc.Settled):
        job.ack()
    with pytest.raises(ipc.Settled):
        memoryview(job)
    assert job.settled


def test_a_dropped_delivery_is_redelivered(address):
    queue = ipc.Queue(address, backoff=0)
    queue.put(1)
    queue.get(1)
    assert queue.get(1).attempt == 2


def test_another_thread_may_settle(address):
    queue = ipc.Queue(address)
    queue.put(1)
    job = queue.get(1)
    thread = threading.Thread(target=job.ack)
    thread.start()
    thread.join()
    assert queue.stats().acked == 1


def test_settling_while_a_view_lives_is_refused(address):
    queue = ipc.Queue(address, codec="bytes")
    payload = os.urandom(100_000)
    queue.put(payload)
    job = queue.get(1)
    view = job.view()
    assert view == payload
    assert view.readonly
    with pytest.raises(BufferError, match="1 views"):
        job.ack()
    view.release()
    job.ack()


def test_a_view_reads_the_senders_memory(address):
    numpy = pytest.importorskip("numpy")
    queue = ipc.Queue(address, codec="bytes")
    queue.put(numpy.arange(50_000))
    with queue.get(1) as job, job.view() as view:
        array = numpy.frombuffer(view, dtype=int)
        assert array.sum() == sum(range(50_000))
        del array
    assert queue.stats().unsettled == 0


def test_headers_travel_with_their_message(address):
    queue = ipc.Queue(address)
    queue.put(1, headers={"trace": "abc", "raw": b"\0\1"})
    with queue.get(1) as job:
        assert job.headers == {"trace": b"abc", "raw": b"\0\1"}


def test_a_key_is_sent_once(address):
    queue = ipc.Queue(address, dedup_window=60)
    assert queue.put(1, key="a")
    assert not queue.put(1, key="a")
    assert queue.put(2, key=b"b")
    assert queue.qsize() == 2
    with pytest.raises(ipc.EmptyKey):
        queue.put(1, key="")


def test_urgent_messages_go_first(address):
    queue = ipc.Queue(address, priorities=True)
    for priority in ("low", "normal", "high", "urgent"):
        queue.put(priority, priority=priority)
    assert [queue.take(1) for _ in range(4)] == ["urgent", "high", "normal", "low"]


def test_missing_features_are_refused(address):
    queue = ipc.Queue(address)
    with pytest.raises(ipc.Unsupported):
        queue.put(1, priority="high")
    with pytest.raises(ipc.Unsupported):
        queue.put(1, key="a")
    with pytest.raises(TypeError, match="colour"):
        ipc.Queue(address, colour="red")
    with pytest.raises(ValueError, match="soon"):
        queue.put(1, priority="soon")


def test_delayed_and_expired_messages(address):
    queue = ipc.Queue(address)
    queue.put("late", delay=0.2)
    with pytest.raises(ipc.Empty):
        queue.get(0)
    queue.put("gone", expires_in=0.001)
    over = time.monotonic() + 0.002
    while time.monotonic() < over:
        pass
    assert queue.take(10) == "late"
    assert queue.stats().unsettled == 0


def test_batches_keep_their_order(address):
    queue = ipc.Queue(address)
    queue.put_many(range(100))
    batch = queue.get_many(60, 1)
    assert [job.data for job in batch] == list(range(60))
    for job in batch:
        job.ack()
    assert len(queue.get_many(60, 1)) == 40


def test_a_batch_that_does_not_fit_says_how_much_was_sent(address):
    queue = ipc.Queue(address, capacity=3)
    with pytest.raises(ipc.Full) as raised:
        queue.put_many(range(5), 0)
    assert raised.value.sent == 3
    with pytest.raises(ipc.Full) as raised:
        queue.put_many(range(5), 0.06)
    assert raised.value.sent == 0


def test_full_and_empty_are_exceptions_of_the_standard_library(address):
    import queue as standard

    full = ipc.Queue(address, capacity=1)
    full.put(1)
    with pytest.raises(standard.Full, match="full") as raised:
        full.put(2, 0)
    assert raised.value.capacity == 1
    with pytest.raises(standard.Full):
        full.put(2, 0.01)
    full.take(0)
    with pytest.raises(standard.Empty):
        full.take(0)


def test_a_loop_ends_when_the_queue_is_closed_and_settled(address):
    queue = ipc.Queue(address)
    queue.put_many(range(3))
    queue.close()
    seen = []
    for job in queue:
        with job:
            seen.append(job.data)
    assert seen == [0, 1, 2]
    with pytest.raises(ipc.Closed):
        queue.put(1)
    assert queue.closed
    queue.reopen()
    queue.put(4)


def test_control_calls(address):
    queue = ipc.Queue(address)
    queue.pause()
    queue.put_many("abc")
    assert queue.paused
    with pytest.raises(ipc.Empty):
        queue.get(0)
    queue.resume()
    job = queue.get(0)
    assert [lease.pid for lease in queue.leases()] == [os.getpid()]
    assert queue.purge() == 2
    with pytest.raises(ipc.NotDrained) as raised:
        queue.drain(0.01)
    assert raised.value.left == 1
    job.bury("no good")
    queue.drain(10)
    (letter,) = queue.dead_letters()
    assert (letter.reason, letter.error) == ("buried", "no good")
    assert letter.discard()
    assert not letter.discard()


def test_stats_have_every_field_that_the_queue_counts(address):
    queue = ipc.Queue(address, dedup_window=60)
    queue.put(1, key="a")
    stats = queue.stats()
    # A new field in Rust appears here, and must get a type in `Stats`.
    assert set(vars(stats)) == set(ipc.Stats.__annotations__)
    assert (stats.sent, stats.keys, stats.ready, stats.unsettled) == (1, 1, 1, 1)
    assert stats.paused is False and stats.closed is False


def test_snoozing_is_not_an_attempt(address):
    queue = ipc.Queue(address, attempt_limit=1)
    queue.put(1)
    queue.get(0).snooze(0)
    job = queue.get(1)
    assert job.attempt == 1
    job.extend(60)
    job.ack()


def test_a_lost_lease_raises(address):
    queue = ipc.Queue(address, lease=0.001)
    queue.put(1)
    job = queue.get(1)
    again = queue.get(10)
    assert again.attempt == 2
    with pytest.raises(ipc.LeaseLost):
        job.ack()


def test_a_removed_queue_wakes_and_refuses(address):
    queue = ipc.Queue(address)
    raised = []

    def wait():
        try:
            queue.get(60)
        except ipc.Removed as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert ipc.remove(address)
    thread.join(30)
    assert len(raised) == 1
    with pytest.raises(ipc.Removed):
        queue.put(1)
    assert not ipc.remove(address)


def test_queues_that_do_not_exist_are_not_found(address):
    with pytest.raises(ipc.NotFound):
        ipc.Queue(address, mode="open")
    ipc.Queue(address, mode="create")
    with pytest.raises(ipc.Exists):
        ipc.Queue(address, mode="create")
    with pytest.raises(ipc.SettingsDiffer, match="capacity"):
        ipc.Queue(address, capacity=7)
    with pytest.raises(ipc.BadAddress):
        ipc.Queue("no address")
    with pytest.raises(ipc.BadSettings):
        ipc.Queue("shm:test-other/q", capacity=0)


def test_a_forked_copy_opens_the_queue_again(address):
    queue = ipc.Queue(address)
    queue.put("before")
    job = queue.get(1)
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
    assert queue.take(10) == "from the copy"
    job.ack()


def test_a_copy_of_a_copy_works_and_its_death_is_noticed(address):
    queue = ipc.Queue(address)
    queue.put("work")
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            queue.stats()
            if os.fork() == 0:
                held = queue.get(10)
                os.write(writer, b"held")
                os.kill(os.getpid(), signal.SIGKILL)
                print(held)
        finally:
            os._exit(0)
    os.waitpid(first, 0)
    assert os.read(reader, 4) == b"held"
    os.close(reader)
    os.close(writer)
    # The parent's watcher was paused for the fork.
    with queue.get(30) as job:
        assert job.attempt == 2


def test_forking_with_an_open_queue_causes_no_thread_warning(address):
    program = """
        import os, sys, warnings
        warnings.simplefilter("always")
        import ipc_queue as ipc
        queue = ipc.Queue(sys.argv[1])
        for n in range(3):
            queue.put(n)
            pid = os.fork()
            if pid == 0:
                queue.take(10)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    """
    import textwrap

    for executable in _pythons():
        environment = {**os.environ, "PYTHONPATH": _package_folder()}
        ended = subprocess.run(
            [executable, "-c", textwrap.dedent(program), address],
            check=True,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        # Python does not raise this warning, whatever the filter is.
        assert "multi-threaded" not in ended.stderr, executable


def _package_folder() -> str:
    return os.path.dirname(os.path.dirname(ipc.__file__))


def _pythons() -> list[str]:
    """Return this interpreter and any newer ones: only those warn."""
    newer = [shutil.which(f"python3.{minor}") for minor in range(12, 16)]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
        newer += glob.glob(f"{root}/versions/3.1[2-9].*/bin/python3")
    quiet = {"stderr": subprocess.DEVNULL}
    runs = [path for path in newer if path and subprocess.call([path, "-c", ""], **quiet) == 0]
    return [sys.executable, *runs]


def test_ctrl_c_ends_every_blocking_call(address, child):
    for call in ("queue.get()", "full.put(1)", "queue.drain()", "next(iter(queue))"):
        blocked = child(
            f"""
            import sys, ipc_queue as ipc
            queue = ipc.Queue(sys.argv[1])
            full = ipc.Queue(sys.argv[1] + "-full", capacity=1)
            if full.qsize() == 0:
                full.put(1)
            if "drain" in {call!r}:
                queue.put(1)
            try:
                print("ready", flush=True)
                {call}
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            """,
            address,
        )
        assert blocked.line() == "ready"
        blocked.process.send_signal(signal.SIGINT)
        assert blocked.line() == "interrupted", call
        blocked.end()
        if "drain" in call:
            queue = ipc.Queue(address)
            queue.reopen()
            queue.purge()
    ipc.remove(address + "-full")


def test_a_call_continues_after_a_signal_handler_returns(address, child):
    waiting = child(
        """
        import signal, sys, ipc_queue as ipc
        queue = ipc.Queue(sys.argv[1])
        signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
        print("ready", flush=True)
        print(queue.take(), flush=True)
        """,
        address,
    )
    assert waiting.line() == "ready"
    waiting.process.send_signal(signal.SIGUSR1)
    assert waiting.line() == "handled"
    ipc.Queue(address).put("came")
    assert waiting.line() == "came"


def test_waiting_does_not_block_other_threads(address):
    queue = ipc.Queue(address)
    received = []
    thread = threading.Thread(target=lambda: received.append(queue.take(60)))
    thread.start()
    queue.put("for the thread")
    thread.join(30)
    assert received == ["for the thread"]


def test_many_threads_share_one_queue(address):
    queue = ipc.Queue(address)
    count, threads = 500, 4
    seen: list[int] = []

    def receive():
        for job in queue:
            with job:
                seen.append(job.data)

    def send(first):
        for n in range(first, first + count):
            queue.put(n)

    receivers = [threading.Thread(target=receive) for _ in range(threads)]
    senders = [threading.Thread(target=send, args=(n * count,)) for n in range(threads)]
    for thread in receivers + senders:
        thread.start()
    for thread in senders:
        thread.join()
    queue.close()
    for thread in receivers:
        thread.join(60)
    assert sorted(seen) == list(range(count * threads))


def test_async_loops_receive_without_threads(address):
    queue = ipc.Queue(address, capacity=2)
    seen = []

    async def receive():
        async for job in queue:
            async with job:
                seen.append(job.data)

    async def run():
        receivers = [asyncio.create_task(receive()) for _ in range(3)]
        for n in range(50):
            await queue.put_async(n)
        queue.close()
        await asyncio.wait_for(asyncio.gather(*receivers), 60)

    threads = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == threads
    assert sorted(seen) == list(range(50))


def test_an_async_receive_that_is_cancelled_loses_nothing(address):
    queue = ipc.Queue(address)

    async def run():
        waiting = asyncio.create_task(queue.get_async())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(ipc.Empty):
            await queue.get_async(0.01)
        queue.put(1)
        async with await queue.get_async(10) as job:
            assert job.data == 1

    asyncio.run(run())


def test_a_queue_pickles_as_its_address(address):
    queue = ipc.Queue(address, codec="json", type=Size)
    copy = pickle.loads(pickle.dumps(queue))
    copy.put(Size(1, 2))
    assert queue.take(1) == Size(1, 2)


def test_too_little_shared_memory_raises_with_figures(address):
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    needed = free * 2
    with pytest.raises(ipc.NoSpace) as raised:
        # With fewer messages the queue would not use all of it.
        ipc.Queue(address, capacity=needed >> 20, pool_bytes=needed)
    assert raised.value.needed >= needed
    assert 0 < raised.value.free < needed
    assert isinstance(raised.value, OSError)


def test_running_out_of_descriptors_raises(address, child):
    starved = child(
        """
        import os, resource, sys, ipc_queue as ipc
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        try:
            while True:
                os.dup(0)
        except OSError:
            pass
        try:
            ipc.Queue(sys.argv[1])
        except ipc.NoDescriptors as error:
            print("said", error, flush=True)
        """,
        address,
    )
    said = starved.line()
    assert said.startswith("said") and "ulimit -n" in said
