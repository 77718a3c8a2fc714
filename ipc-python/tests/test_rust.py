"""Rust and Python at two ends of one queue, typed, with real processes that are killed."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

import ipc_queue as ipc

PEER = Path(__file__).parent.parent / "target/release/rust-peer"

pytestmark = [
    pytest.mark.skipif(not PEER.exists(), reason="the Rust program is not built"),
    pytest.mark.parametrize("codec", ["msgpack", "json"]),
]


@dataclasses.dataclass
class Size:
    width: int
    height: int


@dataclasses.dataclass
class Job:
    path: str
    size: Size
    tags: list[str]
    ratio: float
    note: str | None = None


@dataclasses.dataclass
class Done:
    path: str
    pixels: int
    attempt: int


@pytest.fixture
def peer():
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [PEER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _kill(process):
    process.kill()
    process.wait()


def test_a_rust_worker_serves_a_python_producer_and_is_killed(address, codec, peer):
    jobs = ipc.Queue(address, codec=codec, type=Job)
    done = ipc.Queue(address + "-done", codec=codec, type=Done)
    jobs.put_many(Job(f"{n}.jpg", Size(n, 3), ["a", "ö"], n / 8) for n in range(100))
    holder = peer("hold", address, codec)
    assert holder.stdout.readline() == "0.jpg\n"
    worker = peer("work", address, codec)
    results = [done.take(30)]
    _kill(holder)
    while len(results) < 100:
        results.append(done.take(30))
    # The message of the killed worker was redelivered to the other.
    assert sorted(result.path for result in results) == sorted(f"{n}.jpg" for n in range(100))
    assert {result.path: result.attempt for result in results}["0.jpg"] == 2
    assert all(result.pixels == 3 * int(result.path.split(".")[0]) for result in results)
    jobs.close()
    assert worker.wait(30) == 0
    ipc.remove(address + "-done")


def test_a_python_worker_serves_a_rust_producer_and_is_killed(address, codec, peer, child):
    producer = peer("send", address, codec)
    assert producer.stdout.readline() == "sent\n"
    _kill(producer)
    holder = child(
        """
        import sys, ipc_queue as ipc
        job = ipc.Queue(sys.argv[1]).get()
        print(job.data["path"], flush=True)
        sys.stdin.readline()
        """,
        address,
    )
    assert holder.line() == "0.jpg"
    holder.kill()
    queue = ipc.Queue(address, type=Job)
    assert queue.raw.payload == f"{codec}:Job"
    attempts = {}
    for n in range(100):
        with queue.get(30) as delivery:
            job = delivery.data
            attempts[job.path] = delivery.attempt
            number = int(job.path.split(".")[0])
            note = "even" if number % 2 == 0 else None
            assert job == Job(f"{number}.jpg", Size(number, 2), ["ä"], number / 8, note)
        assert len(attempts) == n + 1
    assert attempts["0.jpg"] == 2
    assert queue.stats().unsettled == 0


def test_another_type_than_the_rust_programs_is_refused(address, codec, peer):
    producer = peer("send", address, codec)
    assert producer.stdout.readline() == "sent\n"
    with pytest.raises(ipc.CodecDiffers, match=f"{codec}:Job.*{codec}:Done"):
        ipc.Queue(address, codec=codec, type=Done)


def test_a_rust_programs_own_encoding_is_refused_until_it_uses_another(address, codec, peer):
    producer = peer("send", address, "postcard")
    assert producer.stdout.readline() == "sent\n"
    with pytest.raises(ipc.CodecDiffers, match="Encoding::MessagePack or Encoding::Json"):
        ipc.Queue(address)
    _kill(producer)
    assert ipc.remove(address)
    assert peer("send", address, codec).stdout.readline() == "sent\n"
    with ipc.Queue(address, type=Job).get(30) as delivery:
        assert delivery.data.path == "0.jpg"
