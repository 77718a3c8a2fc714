"""What a text of the package recommends helps. `xtask/advice.toml` names the test of each text."""

from __future__ import annotations

import os
import warnings

import pytest
from test_bad_luck import in_a_fork

import ipc_queue as ipc
from ipc_queue import mp

STARVED = """
    import os, resource, sys, ipc_queue as ipc, ipc_queue.mp

    def act():
        return {act}

    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 200))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    try:
        act()
    except ipc.NoDescriptors as error:
        print(error, flush=True)
    if sys.argv[2] == "close files":
        for descriptor in taken:
            os.close(descriptor)
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    act()
    print("helped", flush=True)
    """
WITHOUT_DESCRIPTORS = {
    "Queue": "ipc.Queue(sys.argv[1])",
    "mp.Queue": "ipc.mp.Queue()",
    "ProcessPoolExecutor": "ipc.ProcessPoolExecutor(1).submit(abs, 1).result(60)",
}


@pytest.mark.parametrize("way", ["close files", "raise the limit (ulimit -n)"])
@pytest.mark.parametrize("what", WITHOUT_DESCRIPTORS)
def test_descriptors_are_there_again_when_files_are_closed_or_the_limit_is_raised(
    what, way, address, child
):
    starved = child(STARVED.format(act=WITHOUT_DESCRIPTORS[what]), address, way)
    assert way in starved.line()
    assert starved.line() == "helped"
    starved.end()


def test_a_group_is_joined_with_a_longer_interval_or_by_hand():
    namespace = f"advice-{os.getpid()}"
    with pytest.raises(ValueError, match="use a longer time, or None to beat by hand"):
        ipc.Node("a", namespace=namespace, interval=0)
    for interval in (0.001, None):
        with ipc.Node("a", namespace=namespace, interval=interval) as node:
            node.beat()
            assert node.health("a") == "alive"
    ipc.remove_nodes(namespace)


def test_a_forked_copy_makes_an_executor_of_its_own():
    def make_another():
        for act, error in (
            (lambda: pool.submit(abs, -1), RuntimeError),
            (lambda: pool.workers, ipc.Forked),
        ):
            with pytest.raises(error, match="make another one"):
                act()
        with ipc.ProcessPoolExecutor(1) as own:
            assert own.submit(abs, -1).result(60) == 1

    with ipc.ProcessPoolExecutor(1) as pool:
        pool.submit(abs, -1).result(60)
        assert in_a_fork(make_another) == "nothing"


def test_a_number_is_accepted_at_both_ends_of_its_range():
    for name, least, most in (("attempts", 1, 255), ("max_workers", 1, 65536)):
        with pytest.raises(ValueError, match=f"{name} must be (>= {least}|greater than 0)"):
            ipc.ProcessPoolExecutor(**{name: least - 1})
        with pytest.raises(ValueError, match=f"{name} must be <= {most}"):
            ipc.ProcessPoolExecutor(**{name: most + 1})
        with pytest.raises(TypeError, match=f"{name} must be an integer, not str"):
            ipc.ProcessPoolExecutor(**{name: "3"})
        # No worker is started yet.
        for number in (least, most):
            ipc.ProcessPoolExecutor(**{name: number}).shutdown()


def test_arguments_of_the_executor_are_accepted_once_they_are_as_the_error_says():
    for wrong, right, text in (
        ({"initializer": 3}, {"initializer": print}, "initializer must be a callable"),
        (
            {"max_tasks_per_child": "3"},
            {"max_tasks_per_child": 3},
            "max_tasks_per_child must be an integer",
        ),
    ):
        with pytest.raises(TypeError, match=text):
            ipc.ProcessPoolExecutor(1, **wrong)
        ipc.ProcessPoolExecutor(1, **right).shutdown()
    with ipc.ProcessPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            pool.map(abs, [-1], chunksize=0)
        assert list(pool.map(abs, [-1], chunksize=1)) == [1]


def test_a_full_queue_has_room_with_a_larger_maxsize_or_memory_or_with_a_receiver(monkeypatch):
    monkeypatch.setattr(mp, "_WARN_AFTER", 0.01)
    places, memory = mp.Queue(1), mp.Queue(memory=1 << 20)
    places.put(1)
    large = bytes(500_000)
    fitting = 0
    with pytest.raises(ipc.Full):
        while True:
            memory.put(large, block=False)
            fitting += 1
    for queue, value in ((places, 1), (memory, large)):
        warns = pytest.warns(RuntimeWarning, match="larger maxsize or memory")
        with warns, pytest.raises(ipc.Full):
            queue.put(value, timeout=0.05)
        # A receiver.
        queue.get()
        queue.put(value, timeout=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mp.Queue(2).put(1)
        larger = mp.Queue(memory=16 << 20)
        for _ in range(fitting + 1):
            larger.put(large, timeout=0.05)


def test_bytes_with_gaps_are_sent_as_a_copy(address):
    queue = ipc.Queue(address, codec="bytes", dedup_window=60)
    gaps = memoryview(b"abcdef")[::2]
    with pytest.raises(BufferError, match=r"copy them first, with bytes\(\.\.\.\)"):
        queue.put(b"x", key=gaps)
    assert queue.put(b"x", key=bytes(gaps))


def test_a_view_is_released_before_its_delivery_is_settled(address):
    queue = ipc.Queue(address, codec="bytes")
    queue.put(b"abc")
    delivery = queue.get(0)
    view = delivery.view()
    with pytest.raises(BufferError, match="release them before settling it"):
        delivery.ack()
    view.release()
    delivery.ack()
