"""Compare this package with `multiprocessing` and `concurrent.futures`, all in one run.

python bench/compare.py [--quick] [--only WORDS] [--docs FILE]

Each row is measured in rounds: ours, then theirs, in the next round the other way round. So what
else runs on the machine meanwhile is the same for both. The ratio is the median of those of the
rounds. Both loops are in Python, and the other side of a queue is a process of its own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipc_queue as ipc

QUICK = "--quick" in sys.argv
ROUNDS = 5 if QUICK else 15
SCALE = 0.2 if QUICK else 1.0
CONTEXT = multiprocessing.get_context("spawn")
# The children import this file again: they use the names of the first process.
NAME = os.environ.setdefault("IPC_BENCH_NAME", f"bench-{os.getpid()}")
MARKS = ("<!-- bench -->\n", "<!-- /bench -->\n")

# Measures one round: seconds for each message or call.
Round = Callable[[], float]


@dataclasses.dataclass
class Row:
    """One comparison."""

    name: str
    against: str
    wanted: float
    rounds: Callable[[], contextlib.AbstractContextManager[tuple[Round, Round]]]
    # If true, the ratio is how many times faster we are; otherwise, how many times as long we take.
    is_speed: bool = True


ROWS = [
    Row("64 B, bytes", "`mp.Queue`", 20, lambda: messages("bytes")),
    Row("64 B, pickled", "`mp.Queue`", 7, lambda: messages("pickle")),
    Row("64 B, bytes, beside a busy thread", "`mp.Queue`", 15, lambda: messages("bytes", True)),
    Row("64 B, in batches of 32", "`mp.Queue`, one by one", 35, lambda: messages("batches")),
    Row("1 MiB, copied", "`mp.Queue`", 4, lambda: messages("array")),
    Row("1 MiB, read in place", "`mp.Queue`", 8, lambda: messages("view")),
    Row("round trip", "`mp.Pipe`", 0.6, lambda: round_trips(False), False),
    Row("round trip, all on one core", "`mp.Pipe`", 2, lambda: round_trips(True), False),
    Row("calls that do nothing", "`ProcessPoolExecutor`", 5, lambda: calls()),
    Row("the same by `map`", "`Pool.imap`", 1.5, lambda: maps(1)),
    Row("the same by `map`, chunks of 64", "`Pool.imap`, chunks of 64", 1.5, lambda: maps(64)),
]


def main() -> None:
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    lines = []
    for row in ROWS:
        if only in row.name:
            with row.rounds() as (ours, theirs):
                lines.append(measured(row, ours, theirs))
            print(lines[-1], flush=True)
    if only in "a killed holder":
        back = back_after_a_kill() * 1e3
        lines.append(f"| a killed holder’s message is back | – | ≤ 20 ms | {back:.1f} ms | | |")
        print(lines[-1])
    if "--docs" in sys.argv:
        write(Path(sys.argv[sys.argv.index("--docs") + 1]), lines)


def measured(row: Row, ours: Round, theirs: Round) -> str:
    """Measure a row. Return its line of the table."""
    ours(), theirs()
    times: dict[Round, list[float]] = {ours: [], theirs: []}
    for number in range(ROUNDS):
        for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            times[side].append(side() * 1e6)
    pairs = zip(times[ours], times[theirs], strict=True)
    ratios = [them / us if row.is_speed else us / them for us, them in pairs]
    sign = "≥" if row.is_speed else "≤"
    ratio, least, most = statistics.median(ratios), min(ratios), max(ratios)
    us, them = (statistics.median(times[side]) for side in (ours, theirs))
    return (
        f"| {row.name} | {row.against} | {sign} {row.wanted:g}× | **{ratio:.1f}×** "
        f"({least:.1f}–{most:.1f}) | {us:.2f} | {them:.2f} |"
    )


def write(path: Path, lines: list[str]) -> None:
    """Write the table into a page, between its marks."""
    before, start, rest = path.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    assert start and end, f"{path} has no place for the table"
    load = " ".join(f"{load:.1f}" for load in os.getloadavg())
    head = [
        f"CPython {platform.python_version()}, {os.cpu_count()} cores, load averages at the end "
        f"{load}; {ROUNDS} rounds.",
        "",
        "| what | against | wanted | ratio (least–most) | ours, µs | theirs, µs |",
        "|---|---|---|---:|---:|---:|",
    ]
    path.write_text(before + start + "\n".join([*head, *lines]) + "\n" + end + after)


# One way.


def ours(kind: str) -> ipc.Queue[Any]:
    """Our queue for a kind of messages."""
    codec = "pickle" if kind == "pickle" else "bytes"
    settings = {"capacity": 4096, "max_message_bytes": 2 << 20, "pool_bytes": 64 << 20}
    return ipc.Queue(f"shm:{NAME}/{kind}", codec=codec, **settings)


def receive_ours(kind: str, orders: Any) -> None:
    """Receive messages in a loop; each order says how many."""
    queue = ours(kind)
    orders.send("ready")
    while left := orders.recv():
        while left:
            if kind == "view":
                with queue.get() as delivery, delivery.view() as view:
                    assert len(view)
                left -= 1
            elif kind == "batches":
                left -= len(queue.take_many(32))
            else:
                queue.take()
                left -= 1
        orders.send("done")


def receive_theirs(queue: Any, orders: Any) -> None:
    """Like `receive`, from a queue of multiprocessing."""
    orders.send("ready")
    while count := orders.recv():
        for _ in range(count):
            queue.get()
        orders.send("done")


@contextlib.contextmanager
def receiver(target: Any, *arguments: Any) -> Iterator[Callable[[Callable[[], None], int], float]]:
    """A process that receives. Gives what measures from the first message until it has the last."""
    orders, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=target, args=(*arguments, theirs))
    process.start()
    orders.recv()

    def measure(send: Callable[[], None], count: int) -> float:
        orders.send(count)
        started = time.perf_counter()
        send()
        orders.recv()
        return (time.perf_counter() - started) / count

    yield measure
    orders.send(0)
    process.join()


@contextlib.contextmanager
def messages(kind: str, is_busy: bool = False) -> Iterator[tuple[Round, Round]]:
    """Messages from one process to another."""
    is_large = kind in ("array", "view")
    payload = bytearray(1 << 20) if is_large else bytes(64)
    count = int((200 if is_large else 32_000) * SCALE) // 32 * 32
    # Beside a busy thread each of theirs takes as long as many of ours.
    count_theirs = count // 20 if is_busy else count // 4
    queue, other = ours(kind), CONTEXT.Queue()

    def send() -> None:
        if kind == "batches":
            batch = [payload] * 32
            for _ in range(count // 32):
                queue.put_many(batch)
        else:
            for _ in range(count):
                queue.put(payload)

    def send_theirs() -> None:
        for _ in range(count_theirs):
            other.put(payload)

    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    with (
        receiver(receive_ours, kind) as measure,
        receiver(receive_theirs, other) as measure_theirs,
    ):
        busy = threading.Thread(target=spin)
        if is_busy:
            busy.start()
        try:
            yield lambda: measure(send, count), lambda: measure_theirs(send_theirs, count_theirs)
        finally:
            stop.set()
            if is_busy:
                busy.join()
    ipc.remove(queue.address)


# There and back.


def answer_ours(there: str, back: str) -> None:
    """Send each message back."""
    requests, answers = ipc.Queue(there), ipc.Queue(back)
    while (value := requests.take()) != b"":
        answers.put(value)


def answer_theirs(pipe: Any) -> None:
    """Like `echo`, through a pipe."""
    while (value := pipe.recv()) != b"":
        pipe.send(value)


@contextlib.contextmanager
def round_trips(on_one_core: bool) -> Iterator[tuple[Round, Round]]:
    """Measure a message's round trip."""
    count = int(5_000 * SCALE)
    cores = os.sched_getaffinity(0)
    if on_one_core:
        os.sched_setaffinity(0, {min(cores)})
    there = ipc.Queue(f"shm:{NAME}/there", codec="bytes")
    back = ipc.Queue(f"shm:{NAME}/back", codec="bytes")
    pipe, end = CONTEXT.Pipe()
    others = [
        CONTEXT.Process(target=answer_ours, args=(there.address, back.address)),
        CONTEXT.Process(target=answer_theirs, args=(end,)),
    ]
    for other in others:
        other.start()

    def measure(send: Any, receive: Any) -> float:
        started = time.perf_counter()
        for _ in range(count):
            send(b"x")
            receive()
        return (time.perf_counter() - started) / count

    yield lambda: measure(there.put, back.take), lambda: measure(pipe.send, pipe.recv)
    there.put(b"")
    pipe.send(b"")
    for other in others:
        other.join()
    for queue in (there, back):
        ipc.remove(queue.address)
    os.sched_setaffinity(0, cores)


# Calls.


@contextlib.contextmanager
def calls() -> Iterator[tuple[Round, Round]]:
    """Measure calls that do nothing, one future each."""
    count = int(4_000 * SCALE)

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
        yield lambda: measure(ours), lambda: measure(theirs)


@contextlib.contextmanager
def maps(chunk: int) -> Iterator[tuple[Round, Round]]:
    """Measure calls that do nothing, through map."""
    count = int((4_000 if chunk == 1 else 100_000) * SCALE)

    def measure(results: Callable[[], Any]) -> float:
        started = time.perf_counter()
        for _ in results():
            pass
        return (time.perf_counter() - started) / count

    with ipc.ProcessPoolExecutor(2) as ours, CONTEXT.Pool(2) as theirs:
        yield (
            lambda: measure(lambda: ours.map(abs, range(count), chunksize=chunk)),
            lambda: measure(lambda: theirs.imap(abs, range(count), chunksize=chunk)),
        )


# Deaths.


def hold(address: str, held: Any) -> None:
    """Take a message and keep it."""
    delivery = ipc.Queue(address).get()
    held.set()
    threading.Event().wait()
    print(delivery)


def back_after_a_kill() -> float:
    """Measure the time from a holder's SIGKILL until another process has its message."""
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
