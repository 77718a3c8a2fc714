"""Both sides of a multiprocessing.Queue: as work/one_way.rs, in Python."""

import json
import multiprocessing
import os
import struct
import sys
import time

MASK = (1 << 64) - 1
STOP = b"\xff" * 64


def pin(index, parts):
    cores = sorted(range(os.cpu_count()))
    if parts == 2:
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    else:
        os.sched_setaffinity(0, cores)


def send(queue, outcomes, index, parts, milliseconds):
    pin(index, parts)
    number, total = index << 48, 0
    began = time.monotonic_ns()
    end = began + milliseconds * 1_000_000
    sent = 0
    while time.monotonic_ns() < end:
        for _ in range(8):
            word = (number * 0x9E3779B97F4A7C15 & MASK) >> 1
            words = [word + step for step in range(8)]
            queue.put(struct.pack("<8Q", *words))
            total += sum(words)
            number += 1
            sent += 1
    outcomes.put(("sent", sent, total & MASK, began, 0))


def receive(queue, outcomes, index, parts):
    pin(index, parts)
    received, total = 0, 0
    while True:
        message = queue.get()
        if message == STOP:
            break
        total += sum(struct.unpack("<8Q", message))
        received += 1
    outcomes.put(("received", received, total & MASK, 0, time.monotonic_ns()))


def main():
    senders, receivers, capacity, milliseconds = map(int, sys.argv[1:])
    parts = senders + receivers
    multiprocessing.set_start_method("fork")
    queue, outcomes = multiprocessing.Queue(capacity), multiprocessing.Queue()
    receiving = [
        multiprocessing.Process(target=receive, args=(queue, outcomes, senders + index, parts))
        for index in range(receivers)
    ]
    sending = [
        multiprocessing.Process(target=send, args=(queue, outcomes, index, parts, milliseconds))
        for index in range(senders)
    ]
    for side in receiving + sending:
        side.start()
    # A sender ends when all that it put is in the pipe.
    for side in sending:
        side.join()
    for _ in receiving:
        queue.put(STOP)
    tallies = {"sent": [0, 0], "received": [0, 0]}
    began, ended = [], []
    for _ in receiving + sending:
        what, messages, total, start, end = outcomes.get()
        tallies[what][0] += messages
        tallies[what][1] = tallies[what][1] + total & MASK
        began += [start] if start else []
        ended += [end] if end else []
    for side in receiving:
        side.join()
    outcome = {
        what: {"messages": messages, "sum": total} for what, (messages, total) in tallies.items()
    }
    outcome |= {
        "measured": tallies["sent"][0],
        "began_ns": min(began),
        "ended_ns": max(ended),
        "trip_ns": None,
        "probes": None,
    }
    print(json.dumps(outcome))


main()
