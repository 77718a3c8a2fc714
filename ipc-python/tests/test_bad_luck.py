"""What happens at bad moments: no room, no descriptors, forks, signals, the collector, the end.

Expected is an exception of its own class, and never a crash, a hang, a leak or a lost message. The
fixture `no_leaks` checks after each test.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import os
import signal
import sys
import threading
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import ipc_queue as ipc
from ipc_queue import mp

# What creates something in shared memory, with the setup in a child.
CREATORS = {
    "Queue": "ipc.Queue(sys.argv[1])",
    "mp.Queue": "ipc_queue.mp.Queue()",
    "SharedBuffer": "ipc.SharedBuffer('luck', 1 << 20, namespace=sys.argv[2])",
    "Node": "ipc.Node('luck', namespace=sys.argv[2])",
    "ProcessPoolExecutor": "ipc.ProcessPoolExecutor(1).submit(abs, 1).result(60)",
}
FAILING = """
    import os, resource, sys, ipc_queue as ipc, ipc_queue.mp
    def attempt():
        {setup}
        try:
            {act}
        except BaseException as error:
            names = [base.__name__ for base in type(error).__mro__]
            return f"{{names}} {{error}}"
        return "nothing"
    print("said", attempt(), flush=True)
    """
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
NO_DESCRIPTORS = "\n        ".join(
    [
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))",
        "try:",
        "    while True: os.dup(0)",
        "except OSError: pass",
    ]
)


@pytest.fixture
def namespace():
    name = f"luck-{os.getpid()}"
    yield name
    with contextlib.suppress(ipc.Error):
        ipc.SharedBuffer("luck", namespace=name).remove()
    ipc.remove_nodes(name)


@pytest.mark.parametrize("what", CREATORS)
def test_a_full_shared_memory_raises_with_figures(what, address, namespace, child):
    starved = child(FAILING.format(setup=FULL, act=CREATORS[what]), address, namespace)
    said = starved.line()
    assert "'NoSpace'" in said and "'OSError'" in said, said
    assert any(character.isdigit() for character in said), said
    starved.end()


@pytest.mark.parametrize("what", CREATORS)
def test_no_descriptors_left_raises_and_says_which_limit(what, address, namespace, child):
    starved = child(FAILING.format(setup=NO_DESCRIPTORS, act=CREATORS[what]), address, namespace)
    said = starved.line()
    assert "'NoDescriptors'" in said and "'OSError'" in said and "ulimit -n" in said, said
    starved.end()


# Calls of a queue, for tables.
CALLS = {
    "put": lambda queue: queue.put(1, 0),
    "put with a key": lambda queue: queue.put(1, 0, key="k"),
    "put_many": lambda queue: queue.put_many([1, 2], 0),
    "get": lambda queue: queue.get(0),
    "get_many": lambda queue: queue.get_many(2, 0),
    "take": lambda queue: queue.take(0),
    "take_many": lambda queue: queue.take_many(2, 0),
    "stats": lambda queue: queue.stats(),
    "qsize": lambda queue: queue.qsize(),
    "leases": lambda queue: queue.leases(),
    "dead_letters": lambda queue: queue.dead_letters(),
    "pause": lambda queue: queue.pause(),
    "resume": lambda queue: queue.resume(),
    "close": lambda queue: queue.close(),
    "reopen": lambda queue: queue.reopen(),
    "purge": lambda queue: queue.purge(),
    "drain": lambda queue: queue.drain(0),
    "remove": lambda queue: queue.remove(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_a_removed_queue_says_so(address, name):
    queue = ipc.Queue(address, dedup_window=60)
    queue.remove()
    try:
        result = CALLS[name](queue)
    except ipc.Removed as error:
        assert address.partition("/")[2] in str(error)
    else:
        # What only reads or has nothing to do may still answer.
        assert name not in ("put", "put with a key", "put_many", "get", "take", "take_many"), result


def test_a_closed_queue_gives_what_it_has_and_takes_nothing(address):
    queue = ipc.Queue(address)
    queue.put_many([1, 2, 3])
    queue.close()
    for name in ("put", "put_many"):
        with pytest.raises(ipc.Closed):
            CALLS[name](queue)
    assert queue.take_many(10, 0) == [1, 2, 3]
    for name in ("get", "get_many", "take", "take_many"):
        with pytest.raises(ipc.Closed):
            CALLS[name](queue)


def in_a_fork(act):
    """Run a function in a forked copy of this process. Return what it raised, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "nothing"
        try:
            act()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with open(reader) as said:
        text = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the copy crashed"
    return text


@pytest.mark.parametrize("name", CALLS)
def test_a_forked_copy_makes_every_call(address, name):
    queue = ipc.Queue(address, dedup_window=60)
    queue.put_many([1, 2, 3])
    text = in_a_fork(lambda: CALLS[name](queue))
    assert text == "nothing" or (name, text[:10]) == ("drain", "NotDrained")


def test_a_delivery_of_the_parent_is_refused_in_a_forked_copy(address):
    queue = ipc.Queue(address)
    queue.put(1)
    delivery = queue.get(0)
    for act in (delivery.ack, delivery.nack, lambda: delivery.snooze(1), delivery.bury):
        assert "Forked" in in_a_fork(act)
    assert in_a_fork(lambda: None) == "nothing"
    # What the copies did at their ends changed nothing.
    assert queue.stats().leased == 1
    delivery.ack()


def test_a_buffer_and_a_node_of_the_parent_are_refused_in_a_forked_copy(namespace):
    buffer = ipc.SharedBuffer("luck", 64, namespace=namespace)
    assert "Forked" in in_a_fork(buffer.read)
    assert "Forked" in in_a_fork(lambda: buffer.write(b"x"))
    with ipc.Node("luck", namespace=namespace) as node:
        for act in (node.beat, node.peers, lambda: node.health("luck")):
            assert "Forked" in in_a_fork(act)
        assert in_a_fork(node.leave) == "nothing"
        assert node.health("luck") == "alive"


class Unpicklable:
    """An object whose method for pickle raises."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error

    def __repr__(self):
        raise RuntimeError("no repr either")

    __eq__ = __repr__
    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
@pytest.mark.parametrize("codec", ["pickle", "mp"])
def test_an_object_that_cannot_be_pickled_raises_its_own_error_in_put(address, codec, error):
    queue = ipc.Queue(address) if codec == "pickle" else mp.Queue()
    with pytest.raises(type(error)) as raised:
        queue.put(Unpicklable(error))
    assert raised.value is error
    assert queue.qsize() == 0
    if codec == "pickle":
        with pytest.raises(type(error)):
            queue.put_many([1, Unpicklable(error)])
        assert queue.qsize() == 0, "nothing is sent if one can't be"


class Unloadable:
    """An object that can be pickled, but not unpickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return _raise, (self.error,)


def _raise(error):
    raise error


class Silent(Exception):
    """An exception without a text."""

    def __str__(self):
        raise RuntimeError("no text")


# The text of `Silent` fails, which is reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "error", [ValueError("mine"), Silent(), ValueError("\ud800")], ids=[1, 2, 3]
)
def test_a_message_that_cannot_be_decoded_is_returned_with_the_reason(address, error):
    queue = ipc.Queue(address, attempt_limit=2, backoff=0)
    queue.put(Unloadable(error))
    with pytest.raises(type(error)):
        queue.take(0)
    with pytest.raises(type(error)), queue.get(0) as delivery:
        delivery.data  # noqa: B018
    (letter,) = queue.dead_letters()
    assert letter.error.startswith(type(error).__name__)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue])
def test_an_object_that_cannot_be_unpickled_raises_once_whatever_its_error_does(kind):
    for error in (Silent(), ValueError("\ud800")):
        queue = kind()
        queue.put(Unloadable(error))
        queue.put(2)
        with pytest.raises(type(error)):
            queue.get()
        assert queue.get() == 2


def test_taking_many_loses_nothing_to_one_that_cannot_be_decoded(address):
    queue = ipc.Queue(address, attempt_limit=1)
    queue.put_many([1, 2, Unloadable(ValueError("mine")), 4])
    assert queue.take_many(10, 0) == [1, 2]
    (letter,) = queue.dead_letters()
    assert letter.error == "ValueError: mine"
    assert queue.take_many(10, 0) == [4]
    queue.put_many([Unloadable(ValueError("mine")), 6])
    with pytest.raises(ValueError, match="mine"):
        queue.take_many(10, 0)
    assert queue.take_many(10, 0) == [6]


def test_taking_many_loses_nothing_to_an_interrupt(address):
    queue = ipc.Queue(address, attempt_limit=1)
    queue.put_many([1, Unloadable(KeyboardInterrupt()), 3])
    with pytest.raises(KeyboardInterrupt):
        queue.take_many(10, 0)
    assert queue.dead_letters() == []
    stats = queue.stats()
    assert (stats.ready + stats.delayed, stats.leased) == (3, 0)


def test_taking_many_waits_for_the_first_only(address):
    queue = ipc.Queue(address)
    with pytest.raises(ipc.Empty):
        queue.take_many(2, 0)
    with pytest.raises(ipc.Empty):
        queue.take_many(2, 0.01)
    sender = threading.Thread(target=queue.put, args=(1,))
    sender.start()
    assert queue.take_many(2, 60) == [1]
    sender.join()
    assert queue.take_many(0, 0) == []


TOO_LARGE = {
    "put": lambda queue, value: queue.put(value),
    "put with terms": lambda queue, value: queue.put(value, headers={"a": "b"}),
    "put_many": lambda queue, value: queue.put_many([value]),
}


@pytest.mark.parametrize("codec", ["bytes", "pickle", "json", "msgpack"])
@pytest.mark.parametrize("how", TOO_LARGE)
def test_an_oversized_message_names_the_limit(address, codec, how):
    queue = ipc.Queue(address, codec=codec, max_message_bytes=1000)
    value = bytes(2000) if codec == "bytes" else "x" * 2000
    with pytest.raises(ipc.TooLarge, match="max_message_bytes") as raised:
        TOO_LARGE[how](queue, value)
    assert raised.value.most == 1000
    assert raised.value.bytes >= 2000
    assert queue.qsize() == 0


def test_bytes_that_are_released_or_not_contiguous_raise(address):
    queue = ipc.Queue(address, codec="bytes")
    released = memoryview(b"abc")
    released.release()
    for value in (released, memoryview(b"abcdef")[::2]):
        with pytest.raises((ValueError, ipc.EncodeError)):
            queue.put(value)
        with pytest.raises((ValueError, ipc.EncodeError)):
            queue.put_many([b"x", value])
    assert queue.qsize() == 0
    writable = bytearray(b"abc")
    queue.put(writable)
    # The queue has let go of it.
    writable.append(0)
    assert queue.take(0) == b"abc"


def test_a_view_outlives_its_delivery(address):
    queue = ipc.Queue(address, codec="bytes")
    queue.put(b"abc")
    delivery = queue.get(0)
    view, gone = delivery.view(), weakref.ref(delivery)
    del delivery
    gc.collect()
    assert bytes(view) == b"abc"
    assert queue.stats().leased == 1
    view.release()
    gc.collect()
    assert gone() is None
    # Dropped without being settled: it comes again.
    assert queue.take(1) == b"abc"


def test_a_delivery_in_a_cycle_is_collected_and_comes_again(address):
    queue = ipc.Queue(address)
    queue.put([])
    delivery = queue.get(0)
    delivery.data.append(delivery)
    gone = weakref.ref(delivery)
    del delivery
    gc.collect()
    assert gone() is None
    assert queue.take(1) == []


def test_a_queue_in_a_cycle_is_collected(address):
    class Owner(ipc.Queue):
        pass

    queue = Owner(address)
    queue.me = queue
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None


def test_a_subclass_that_is_not_initialized_raises(address):
    class Forgetful(ipc.Queue):
        def __init__(self):
            pass

    for name in ("put", "get", "take", "take_many"):
        with pytest.raises(RuntimeError, match="super"):
            CALLS[name](Forgetful())

    class Own(ipc.Queue):
        def __init__(self, name):
            super().__init__(name)

        def put(self, value, *args, **kwargs):
            return super().put((value, "own"), *args, **kwargs)

    queue = Own(address)
    queue.put(1)
    assert queue.take(0) == (1, "own")
    with pytest.raises(RuntimeError, match="open already"):
        queue.__init__(address)


def test_put_and_get_work_in_a_signal_handler_during_the_same_calls(address):
    queue, other = ipc.Queue(address), ipc.Queue(address + "-other")
    handled = []

    def handle(_number, _frame):
        queue.put("from the handler")
        handled.append(queue.take(0))
        other.put("end")

    before = signal.signal(signal.SIGUSR1, handle)
    killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    try:
        # The handler runs while this waits.
        assert other.take(60) == "end"
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, before)
        other.remove()
    assert handled == ["from the handler"]


def test_an_exception_in_a_signal_handler_ends_a_wait_and_loses_nothing(address):
    queue = ipc.Queue(address)

    class Woken(Exception):
        pass

    def handle(_number, _frame):
        raise Woken

    before = signal.signal(signal.SIGUSR1, handle)
    waits = {
        "get": queue.get,
        "take": queue.take,
        "get_many": lambda: queue.get_many(2),
        "take_many": lambda: queue.take_many(2),
    }
    try:
        for wait in waits.values():
            killer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
            killer.start()
            with pytest.raises(Woken):
                wait()
            killer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    queue.put(1)
    assert queue.take(0) == 1


def test_put_and_take_work_in_a_finalizer_that_runs_during_a_put(address):
    queue = ipc.Queue(address)

    class Sends:
        def __del__(self):
            queue.put("from __del__")

        def __reduce__(self):
            # The collector runs in the middle of `put`.
            cycle = [Sends()]
            cycle.append(cycle)
            del cycle
            gc.collect()
            return int, (7,)

    queue.put(Sends())
    gc.collect()
    found = [queue.take(0) for _ in range(queue.qsize())]
    assert sorted(map(str, found)) == ["7", "from __del__", "from __del__"]


AT_THE_END = {
    "a daemon thread that waits": """
        threading.Thread(target=queue.get, daemon=True).start()
    """,
    "daemon threads that send and receive": """
        def work():
            while True:
                queue.put(1)
                queue.take()
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
    """,
    "a call at exit": """
        atexit.register(lambda: (queue.put(1), queue.take(0)))
    """,
    "a finalizer in a module": """
        class Last:
            def __del__(self):
                queue.put(1)
                queue.take(0)
        sys.modules["last"] = last = Last()
    """,
    "a delivery that is not settled": """
        queue.put(1)
        kept = queue.get()
        sys.modules["kept"] = kept
    """,
    "an executor with a running call": """
        pool = ipc.ProcessPoolExecutor(1)
        pool.submit(time.sleep, 0.1)
    """,
    "an executor in a daemon thread": """
        def work():
            with ipc.ProcessPoolExecutor(1) as pool:
                while True:
                    pool.submit(abs, 1).result()
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
    """,
    "a node and a buffer": """
        node = ipc.Node("last", namespace=sys.argv[2])
        buffer = ipc.SharedBuffer("luck", 64, namespace=sys.argv[2])
        view = buffer.buf
        sys.modules["kept"] = (node, buffer, view)
    """,
    "an event loop that waits": """
        import asyncio
        async def wait():
            await asyncio.wait_for(queue.get_async(), 0.01)
        try:
            asyncio.run(wait())
        except TimeoutError:
            pass
    """,
}


@pytest.mark.parametrize("what", AT_THE_END)
def test_a_program_ends_in_order_whatever_it_has_open(what, address, namespace, child):
    head = """
        import atexit, sys, threading, time, ipc_queue as ipc
        queue = ipc.Queue(sys.argv[1])
    """
    program = child(head + AT_THE_END[what], address, namespace)
    _, errors = program.process.communicate(timeout=100)
    assert program.process.returncode == 0, errors
    assert errors == ""
    if what == "a delivery that is not settled":
        assert ipc.Queue(address).take(30) == 1


# The executor.


@pytest.fixture
def pool():
    with ipc.ProcessPoolExecutor(1) as pool:
        yield pool


def _touch_and_wait(path):
    Path(path).write_text("began")
    threading.Event().wait()


def _wait_for(path):
    while not path.exists():
        os.sched_yield()


def nested(depth):
    if depth == 0:
        return os.getpid()
    with ipc.ProcessPoolExecutor(1) as inner:
        return inner.submit(nested, depth - 1).result(100)


def test_a_call_may_have_an_executor_of_its_own(pool):
    assert pool.submit(nested, 2).result(120) != os.getpid()


def test_an_exception_in_a_callback_is_reported_and_the_pool_continues(pool, caplog):
    called = threading.Event()

    def fail(_future):
        called.set()
        raise ValueError("from the callback")

    future = pool.submit(abs, -1)
    future.add_done_callback(fail)
    assert future.result(60) == 1
    assert called.wait(60)
    assert pool.submit(abs, -2).result(60) == 2
    assert "from the callback" in caplog.text


def test_a_callback_may_use_the_pool(pool):
    second = concurrent.futures.Future()

    def again(future):
        # In the executor's own thread, which must not wait for itself.
        pool.submit(abs, -future.result()).add_done_callback(
            lambda inner: second.set_result(inner.result())
        )

    pool.submit(abs, -3).add_done_callback(again)
    assert second.result(60) == 3


def test_a_call_is_cancelled_at_every_stage(pool, tmp_path):
    stuck = pool.submit(_touch_and_wait, tmp_path / "began")
    waiting = pool.submit(abs, -1)
    # Before it begins.
    assert waiting.cancel() and waiting.cancelled()
    assert waiting.cancel(), "again"
    _wait_for(tmp_path / "began")
    # While it runs.
    assert not stuck.cancel()
    assert stuck.kill()
    with pytest.raises(CancelledError):
        stuck.result(60)
    # When it is done.
    done = pool.submit(abs, -2)
    assert done.result(60) == 2
    assert not done.cancel() and not done.kill()
    # In its own callback, and in that of another.
    third = pool.submit(abs, -3)
    third.add_done_callback(lambda future: future.cancel())
    assert third.result(60) == 3
    # After the pool has ended.
    pool.shutdown()
    assert not third.cancel() and not third.kill()


class Result:
    """A result or an exception that can't be pickled, or not unpickled."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        if self.how == "pickle":
            raise ValueError("from pickle")
        return _raise, (ValueError("from unpickle"),)


def give(how):
    return Result(how)


class NoRoundTrip(Exception):
    """An exception that can't be unpickled: its class wants more arguments."""

    def __init__(self, first, second):
        super().__init__(first)


def fail_badly():
    raise NoRoundTrip(1, 2)


def exit_at_once():
    sys.exit(3)


def test_results_and_exceptions_that_cannot_travel_fail_one_future(pool):
    with pytest.raises(ValueError, match="from pickle"):
        pool.submit(give, "pickle").result(60)
    with pytest.raises(ipc.NotUnpickled, match="from unpickle"):
        pool.submit(give, "unpickle").result(60)
    with pytest.raises(ipc.NotUnpickled, match="NoRoundTrip"):
        pool.submit(fail_badly).result(60)
    with pytest.raises(ipc.NotUnpickled, match="from unpickle"):
        pool.submit(len, Result("unpickle")).result(60)
    with pytest.raises(SystemExit):
        pool.submit(exit_at_once).result(60)
    assert pool.submit(abs, -1).result(60) == 1


def test_an_iterable_that_fails_in_map_cancels_what_it_gave(pool):
    def items():
        yield -1
        raise ValueError("from the iterable")

    for chunk in (1, 2):
        with pytest.raises(ValueError, match="from the iterable"):
            list(pool.map(abs, items(), chunksize=chunk))
    assert pool.submit(abs, -1).result(60) == 1
