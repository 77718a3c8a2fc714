"""Measure this package beside `multiprocessing` and `concurrent.futures`, all in one run.

python bench/compare.py [--quick]

Each figure is the median of several rounds, and the ratios are of medians. Both loops are in
Python.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ipc_queue as ipc
import ipc_queue.mp

QUICK = "--quick" in sys.argv
ROUNDS = 3 if QUICK else 5
SCALE = 0.2 if QUICK else 1.0
CONTEXT = multiprocessing.get_context("spawn")
# The children import this file again: they use the names of the first process.
NAME = os.environ.setdefault("IPC_BENCH_NAME", f"bench-{os.getpid()}")


def main() -> None:
    rows: list[tuple[str, Callable[[], tuple[float, float]], str]] = [
        ("64 B, bytes", lambda: messages("bytes", bytes(64)), "mp.Queue"),
        ("64 B, pickled", lambda: messages("pickle", bytes(64)), "mp.Queue"),
        ("batches of 32", batches, "mp.Queue"),
        ("array of 1 MiB, copied", lambda: arrays("copy"), "mp.Queue"),
        ("array of 1 MiB, in place", lambda: arrays("view"), "mp.Queue"),
        ("64 B beside a busy thread", lambda: messages("bytes", bytes(64), True), "mp.Queue"),
        ("round trip", round_trips, "mp.Pipe"),
        ("jobs that do nothing", jobs, "ProcessPoolExecutor"),
        ("the same, by map", maps, "Pool.imap"),
    ]
    print(f"{'what':28} {'ours':>12} {'theirs':>12} {'ratio':>7}  against")
    for what, measure, against in rows:
        ours, theirs = measure()
        ratio = theirs / ours
        print(f"{what:28} {ours:10.2f}us {theirs:10.2f}us {ratio:6.1f}x  {against}", flush=True)
    print(f"{'a killed holder’s message':28} {back_after_a_kill() * 1e3:10.2f}ms")


def median(measure: Callable[[], float]) -> float:
    """The median of several rounds, in microseconds for each message."""
    return statistics.median(measure() for _ in range(ROUNDS)) * 1e6


def ours(codec: str) -> ipc.Queue[Any]:
    return ipc.Queue(
        f"shm:{NAME}/{codec}",
        codec=codec,
        capacity=4096,
        max_message_bytes=2 << 20,
        pool_bytes=64 << 20,
    )


def stream(receive: Any, arguments: tuple[Any, ...], send: Callable[[], None], count: int) -> float:
    """Time from the first message sent until the other process has received the last one."""
    ready, done = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=receive, args=(*arguments, count, ready, done))
    other.start()
    ready.wait()
    started = time.perf_counter()
    send()
    done.wait()
    spent = time.perf_counter() - started
    other.join()
    return spent / count


def receive_ours(codec: str, how: str, count: int, ready: Any, done: Any) -> None:
    queue = ours(codec)
    ready.set()
    left = count
    while left:
        if how == "take":
            queue.take()
            left -= 1
        elif how == "view":
            with queue.get() as delivery, delivery.view() as view:
                assert len(view)
            left -= 1
        else:
            for delivery in queue.get_many(32):
                with delivery:
                    delivery.tobytes()
                left -= 1
    done.set()


def receive_theirs(queue: Any, count: int, ready: Any, done: Any) -> None:
    ready.set()
    for _ in range(count):
        queue.get()
    done.set()


def messages(codec: str, payload: bytes, busy: bool = False) -> tuple[float, float]:
    """Small messages from one process to another."""
    count = int((1_000 if busy else 50_000) * SCALE)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    if busy:
        threading.Thread(target=spin).start()
    queue, other = ours(codec), CONTEXT.Queue()

    def send(to: Any) -> None:
        for _ in range(count):
            to.put(payload)

    try:
        return (
            median(lambda: stream(receive_ours, (codec, "take"), lambda: send(queue), count)),
            median(lambda: stream(receive_theirs, (other,), lambda: send(other), count)),
        )
    finally:
        stop.set()
        ipc.remove(queue.address)


def batches() -> tuple[float, float]:
    """Small messages, 32 at once, against one by one."""
    count = int(64_000 * SCALE) // 32 * 32
    queue, other = ours("bytes"), CONTEXT.Queue()
    batch = [bytes(64)] * 32

    def send() -> None:
        for _ in range(count // 32):
            queue.put_many(batch)

    def send_theirs() -> None:
        for _ in range(count):
            other.put(batch[0])

    try:
        return (
            median(lambda: stream(receive_ours, ("bytes", "many"), send, count)),
            median(lambda: stream(receive_theirs, (other,), send_theirs, count)),
        )
    finally:
        ipc.remove(queue.address)


def arrays(how: str) -> tuple[float, float]:
    """Arrays of 1 MiB."""
    count = int(500 * SCALE)
    array = bytearray(1 << 20)
    codec = "bytes"
    queue, other = ours(codec), CONTEXT.Queue()

    def send(to: Any) -> None:
        for _ in range(count):
            to.put(array)

    receiver = "view" if how == "view" else "take"
    try:
        return (
            median(lambda: stream(receive_ours, (codec, receiver), lambda: send(queue), count)),
            median(lambda: stream(receive_theirs, (other,), lambda: send(other), count)),
        )
    finally:
        ipc.remove(queue.address)


def answer_ours(there: str, back: str) -> None:
    requests, answers = ipc.Queue(there), ipc.Queue(back)
    while (value := requests.take()) != b"":
        answers.put(value)


def answer_theirs(pipe: Any) -> None:
    while (value := pipe.recv()) != b"":
        pipe.send(value)


def round_trips() -> tuple[float, float]:
    """A message there and back."""
    count = int(10_000 * SCALE)
    there = ipc.Queue(f"shm:{NAME}/there", codec="bytes")
    back = ipc.Queue(f"shm:{NAME}/back", codec="bytes")
    other = CONTEXT.Process(target=answer_ours, args=(there.address, back.address))
    pipe, end = CONTEXT.Pipe()
    third = CONTEXT.Process(target=answer_theirs, args=(end,))
    other.start()
    third.start()

    def measure(send: Any, receive: Any) -> float:
        started = time.perf_counter()
        for _ in range(count):
            send(b"x")
            receive()
        return (time.perf_counter() - started) / count

    measure(there.put, back.take)
    measure(pipe.send, pipe.recv)
    result = (
        median(lambda: measure(there.put, back.take)),
        median(lambda: measure(pipe.send, pipe.recv)),
    )
    there.put(b"")
    pipe.send(b"")
    other.join()
    third.join()
    for queue in (there, back):
        ipc.remove(queue.address)
    return result


def jobs() -> tuple[float, float]:
    """Calls that do nothing, one future each."""
    count = int(5_000 * SCALE)

    def measure(pool: Any) -> float:
        started = time.perf_counter()
        futures = [pool.submit(abs, n) for n in range(count)]
        for future in futures:
            future.result()
        return (time.perf_counter() - started) / count

    with (
        ipc.ProcessPoolExecutor(2) as ours,
        concurrent.futures.ProcessPoolExecutor(2, CONTEXT) as theirs,
    ):
        measure(ours), measure(theirs)
        return median(lambda: measure(ours)), median(lambda: measure(theirs))


def maps() -> tuple[float, float]:
    """Calls that do nothing, by map with chunks of one."""
    count = int(5_000 * SCALE)

    def measure(results: Callable[[], Any]) -> float:
        started = time.perf_counter()
        for _ in results():
            pass
        return (time.perf_counter() - started) / count

    with ipc.ProcessPoolExecutor(2) as ours, CONTEXT.Pool(2) as theirs:
        one = lambda: measure(lambda: ours.map(abs, range(count)))  # noqa: E731
        two = lambda: measure(lambda: theirs.imap(abs, range(count)))  # noqa: E731
        one(), two()
        return median(one), median(two)


def hold(address: str, held: Any) -> None:
    delivery = ipc.Queue(address).get()
    held.set()
    threading.Event().wait()
    print(delivery)


def back_after_a_kill() -> float:
    """Time from a holder's SIGKILL until another process has its message."""
    queue = ipc.Queue(f"shm:{NAME}/held")

    def measure() -> float:
        queue.put("work")
        held = CONTEXT.Event()
        holder = CONTEXT.Process(target=hold, args=(queue.address, held))
        holder.start()
        held.wait()
        started = time.perf_counter()
        os.kill(holder.pid, signal.SIGKILL)  # type: ignore[arg-type]
        queue.take(30)
        spent = time.perf_counter() - started
        holder.join()
        return spent

    spent = statistics.median(measure() for _ in range(ROUNDS))
    ipc.remove(queue.address)
    return spent


if __name__ == "__main__":
    main()
