"""Shared buffers and nodes, with processes that are killed."""

from __future__ import annotations

import os
import pickle
import uuid

import pytest

import ipc_queue as ipc


@pytest.fixture
def name():
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    ipc._ipc.remove_buffer("default", name)


def test_processes_share_bytes(name, child):
    buffer = ipc.SharedBuffer(name, 64)
    assert bytes(buffer) == bytes(64)
    other = child(
        """
        import sys, ipc_queue as ipc
        buffer = ipc.SharedBuffer(sys.argv[1])
        buffer[8:12] = b"mine"
        print(len(buffer), flush=True)
        sys.stdin.readline()
        """,
        name,
    )
    assert other.line() == "64"
    assert buffer[8:12] == b"mine"
    assert sorted(buffer.users()) == sorted([os.getpid(), other.process.pid])
    other.kill()
    buffer.write(b"ours", 8)
    assert buffer.read(8, 4) == b"ours"


def test_arrays_are_written_in_place(name):
    numpy = pytest.importorskip("numpy")
    buffer = ipc.SharedBuffer(name, 800)
    buffer.write(numpy.arange(100, dtype="i8"))
    assert numpy.frombuffer(buffer.read(), dtype="i8").sum() == 4950
    copy = pickle.loads(pickle.dumps(buffer))
    assert copy[:8] == bytes(8)


def test_arrays_are_worked_on_in_place_by_several_processes(name, child):
    numpy = pytest.importorskip("numpy")
    buffer = ipc.SharedBuffer(name, 800)
    ours = numpy.frombuffer(buffer.buf, dtype="i8")
    ours[:] = range(100)
    other = child(
        """
        import sys, ipc_queue as ipc
        with ipc.SharedBuffer(sys.argv[1]).buf.cast("q") as numbers:
            print(sum(numbers), flush=True)
            for n in range(50, 100):
                numbers[n] = 1
        print("written", flush=True)
        sys.stdin.readline()
        """,
        name,
    )
    assert other.line() == "4950"
    assert other.line() == "written"
    # The memory stays, although its writer is gone and the buffer is removed.
    other.kill()
    assert ours.sum() == sum(range(50)) + 50
    assert buffer.read(8, 8) == (1).to_bytes(8, "little")
    buffer.remove()
    raw = buffer._raw
    del buffer, raw
    ours[0] = 7
    assert ours[0] == 7


def test_a_buffer_is_written_through_its_view_and_read_under_the_lock(name):
    buffer = ipc.SharedBuffer(name, 8)
    with buffer.buf as view:
        assert not view.readonly
        view[2:4] = b"hi"
        with pytest.raises(ValueError):
            view[0:2] = b"too long"
    assert bytes(buffer) == b"\0\0hi\0\0\0\0"
    assert len(ipc.SharedBuffer(name + "-empty", 0).buf) == 0
    ipc._ipc.remove_buffer("default", name + "-empty")


def test_bad_ranges_are_refused(name):
    buffer = ipc.SharedBuffer(name, 8)
    with pytest.raises(IndexError, match="8 bytes"):
        buffer.read(4, 8)
    with pytest.raises(IndexError):
        buffer.write(bytes(9))
    with pytest.raises(ValueError, match="3 bytes do not fit into 2"):
        buffer[0:2] = b"abc"
    with pytest.raises(ipc.SettingsDiffer):
        ipc.SharedBuffer(name, 9)
    with pytest.raises(ipc.NotFound):
        ipc.SharedBuffer(name + "-other")


def test_a_killed_node_is_dead_and_one_that_left_has_left(name, child):
    with ipc.Node(f"{name}-us", namespace=name) as node:
        other = child(
            """
            import sys, ipc_queue as ipc
            node = ipc.Node("other", namespace=sys.argv[1])
            print(node.health("other"), flush=True)
            sys.stdin.readline()
            """,
            name,
        )
        assert other.line() == "alive"
        assert node.health("other") == "alive"
        with pytest.raises(ipc.Exists):
            ipc.Node("other", namespace=name)
        other.kill()
        while node.health("other") == "alive":
            os.sched_yield()
        assert node.health("other") == "dead"
        assert node.health("nobody") is None
        assert {peer.name: peer.health for peer in node.peers()}[f"{name}-us"] == "alive"
        assert {peer.pid for peer in ipc.nodes(name)} >= {os.getpid()}
        assert not ipc.remove_nodes(name)
    with pytest.raises(ipc.Closed):
        node.beat()
    assert ipc.remove_nodes(name)
