"""What every public call does with arguments that it can't use.

Each call of the table gets each value of the other table. It may accept the value. Otherwise it
raises an exception of a documented class whose text, or notes, name the argument.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ipc_queue as ipc
from ipc_queue import mp


class OwnError(Exception):
    """Raised by the methods of `Hostile`."""


class Hostile:
    """An object whose methods all raise."""

    def __raise(self, *_: Any) -> Any:
        raise OwnError("from the object's own method")

    __reduce__ = __reduce_ex__ = __repr__ = __str__ = __eq__ = __raise  # type: ignore[assignment]
    __float__ = __index__ = __bool__ = __len__ = __iter__ = __raise
    __hash__ = object.__hash__  # type: ignore[assignment]


def nothing() -> None:
    """A function that can be pickled."""


VALUES = {
    "None": None,
    "an object": object(),
    "text": "x",
    "empty text": "",
    "long text": "x" * 100_000,
    "text with a zero": "a\0b",
    "letters outside ASCII": "ü/💥",
    "a lone surrogate": "a\ud800",
    "a path upwards": "../x",
    "bytes": b"x",
    "a view with gaps": memoryview(b"abcdef")[::2],
    "true": True,
    "zero": 0,
    "less than zero": -1,
    "2**63 - 1": 2**63 - 1,
    "2**64 - 1": 2**64 - 1,
    "an integer of 5,000 digits": 10**5_000,
    "half": 0.5,
    "less than zero by half": -0.5,
    "1e300": 1e300,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "not a number": math.nan,
    "a list": [],
    "a dictionary": {},
    "a lambda": lambda: 0,
    "a class": int,
    "hostile": Hostile(),
}

# What a call may raise for a value that it can't use.
EXPECTED = (ipc.Error, TypeError, ValueError, IndexError, BufferError, OwnError)
# Never these, although some of them are subclasses.
UNEXPECTED = (UnicodeError, ipc.Damaged, ipc.Unreachable)
_SMALL = {"capacity": 64, "max_message_bytes": 1000}


class Call:
    """A call with one argument to vary."""

    def __init__(self, what: str, argument: str, call: Callable[[Any], Any]) -> None:
        self.what = what
        # The words of which the error has one.
        self.argument = argument.split("|")
        self.call = call

    def __repr__(self) -> str:
        return f"{self.what}: {self.argument[0]}"


_numbers = itertools.count()


def _address() -> str:
    return f"shm:bad-{os.getpid()}/q{next(_numbers)}"


@contextlib.contextmanager
def _queue(**options: Any) -> Iterator[ipc.Queue[Any]]:
    address = options.pop("address", None) or _address()
    queue = ipc.Queue(address, **{**_SMALL, **options})
    try:
        yield queue
    finally:
        queue.remove()


def _open(**options: Any) -> None:
    with _queue(**options):
        pass


def _put(options: Any = None, **terms: Any) -> None:
    with _queue(**(options or {})) as queue:
        queue.put(1, **{"timeout": 0, **terms})


def _received(act: Callable[[ipc.Delivery], Any], **options: Any) -> None:
    with _queue(**options) as queue:
        queue.put(1)
        delivery = queue.get(0)
        try:
            act(delivery)
        finally:
            if not delivery.settled:
                delivery.ack()


def _with_message(act: Callable[[ipc.Queue[Any]], Any]) -> None:
    with _queue() as queue:
        queue.put(1)
        act(queue)


def _mp(act: Callable[[mp.Queue[Any]], Any], kind: Any = mp.JoinableQueue) -> None:
    queue = kind()
    queue.put(1)
    act(queue)


def _buffer(act: Callable[[ipc.SharedBuffer], Any] = len, **options: Any) -> None:
    given = {"name": f"b{next(_numbers)}", "size": 64, "namespace": f"bad-{os.getpid()}", **options}
    buffer = ipc.SharedBuffer(given.pop("name"), given.pop("size"), **given)
    try:
        act(buffer)
    finally:
        buffer.remove()


def _node(act: Callable[[ipc.Node], Any] = ipc.Node.peers, **options: Any) -> None:
    given = {"name": f"n{next(_numbers)}", "namespace": f"bad-{os.getpid()}", **options}
    try:
        with ipc.Node(given.pop("name"), **given) as node:
            act(node)
    finally:
        ipc.remove_nodes(f"bad-{os.getpid()}")
        with contextlib.suppress(TypeError, ipc.Error):
            ipc.remove_nodes(given["namespace"])


def _set(buffer: ipc.SharedBuffer, part: Any, data: Any = b"x") -> None:
    buffer[part] = data


def _name(text: Any) -> str:
    """Return an address with a name, in the namespace of the tests."""
    return f"shm:bad-{os.getpid()}/{text}" if isinstance(text, str) and text else text


def _executor(**options: Any) -> None:
    ipc.ProcessPoolExecutor(**{"max_workers": 1, **options}).shutdown()


_SETTINGS = (
    "capacity max_message_bytes pool_bytes inline_bytes lease attempt_limit crash_limit "
    "expiry_limit backoff priorities aging dedup_window dedup_keys max_participants"
)
_TERMS = "key priority delay expires_in headers drop_oldest"
_FEATURES = {"priorities": True, "dedup_window": 60}

CALLS = [
    Call("Queue", "address|name", lambda v: _open(address=v or "")),
    Call("Queue", "address|name", lambda v: _open(address=_name(v))),
    Call("Queue", "codec", lambda v: _open(codec=v)),
    Call("Queue", "mode", lambda v: _open(mode=v)),
    Call("Queue", "type_name|name", lambda v: _open(codec="json", type_name=v)),
    *(Call("Queue", name, lambda v, name=name: _open(**{name: v})) for name in _SETTINGS.split()),
    Call("remove", "address|name", lambda v: ipc.remove(v)),
    Call("put", "timeout|time-out", lambda v: _put(timeout=v)),
    *(
        Call("put", name, lambda v, name=name: _put(_FEATURES, **{name: v}))
        for name in _TERMS.split()
    ),
    Call("put", "header|bytes|not contiguous", lambda v: _put(headers={"n": v})),
    Call("put", "header|unhashable|str", lambda v: _put(headers={v: "n"})),
    Call("put_many", "timeout|time-out", lambda v: _with_message(lambda q: q.put_many([1], v))),
    Call("get", "timeout|time-out", lambda v: _with_message(lambda q: q.get(v).ack())),
    Call("take", "timeout|time-out", lambda v: _with_message(lambda q: q.take(v))),
    Call("get_many", "most", lambda v: _with_message(lambda q: [d.ack() for d in q.get_many(v)])),
    Call("take_many", "most", lambda v: _with_message(lambda q: q.take_many(v))),
    Call("take_many", "timeout|time-out", lambda v: _with_message(lambda q: q.take_many(1, v))),
    Call("nack", "reason", lambda v: _received(lambda d: d.nack(v))),
    Call("nack", "delay", lambda v: _received(lambda d: d.nack(delay=v))),
    Call("snooze", "delay", lambda v: _received(lambda d: d.snooze(v))),
    Call("bury", "reason", lambda v: _received(lambda d: d.bury(v))),
    Call("extend", "by", lambda v: _received(lambda d: d.extend(v), lease=60)),
    Call("__exit__", "", lambda v: _received(lambda d: d.__exit__(v, v, v))),
    Call("mp.Queue", "maxsize", lambda v: mp.Queue(v).qsize()),
    Call("mp.Queue", "memory|pool_bytes", lambda v: mp.Queue(memory=v).qsize()),
    Call("mp.Queue", "address|queue", lambda v: mp.Queue(at=v).qsize()),
    Call("mp.SimpleQueue", "memory|pool_bytes", lambda v: mp.SimpleQueue(memory=v).empty()),
    Call("mp.Queue.get", "timeout|time-out", lambda v: _mp(lambda q: q.get(True, v))),
    Call("SharedBuffer", "name", lambda v: _buffer(name=v)),
    Call("SharedBuffer", "name", lambda v: _buffer(namespace=v)),
    Call("SharedBuffer", "size|bytes|does not exist", lambda v: _buffer(size=v)),
    Call("SharedBuffer", "timeout", lambda v: _buffer(timeout=v)),
    Call("SharedBuffer.read", "offset", lambda v: _buffer(lambda b: b.read(v))),
    Call("SharedBuffer.read", "size|bytes", lambda v: _buffer(lambda b: b.read(0, v))),
    Call("SharedBuffer.write", "offset", lambda v: _buffer(lambda b: b.write(b"x", v))),
    Call("SharedBuffer.write", "bytes|buffer|view", lambda v: _buffer(lambda b: b.write(v))),
    Call("SharedBuffer[]", "slice", lambda v: _buffer(lambda b: b[v])),
    Call("SharedBuffer[]", "slice", lambda v: _buffer(lambda b: b[v:v:v])),
    Call("SharedBuffer[]=", "slice", lambda v: _buffer(lambda b: _set(b, v))),
    Call("SharedBuffer[]=", "bytes|view", lambda v: _buffer(lambda b: _set(b, slice(0, 2), v))),
    Call("Node", "name", lambda v: _node(name=v)),
    Call("Node", "name", lambda v: _node(namespace=v)),
    Call("Node", "interval", lambda v: _node(interval=v)),
    Call("Node", "timeout", lambda v: _node(timeout=v)),
    Call("Node.health", "name", lambda v: _node(lambda n: n.health(v))),
    Call("Node.health", "timeout", lambda v: _node(lambda n: n.health("x", v))),
    Call("nodes", "name", lambda v: ipc.nodes(v)),
    Call("nodes", "timeout", lambda v: ipc.nodes(timeout=v)),
    Call("remove_nodes", "name", lambda v: ipc.remove_nodes(v)),
    Call("ProcessPoolExecutor", "max_workers", lambda v: _executor(max_workers=v)),
    Call("ProcessPoolExecutor", "initializer", lambda v: _executor(initializer=v)),
    Call("ProcessPoolExecutor", "max_tasks_per_child", lambda v: _executor(max_tasks_per_child=v)),
    Call("ProcessPoolExecutor", "attempts", lambda v: _executor(attempts=v)),
    Call("ProcessPoolExecutor", "job_timeout", lambda v: _executor(job_timeout=v)),
    Call("ProcessPoolExecutor", "max_memory", lambda v: _executor(max_memory=v)),
    Call("ProcessPoolExecutor", "startup_timeout", lambda v: _executor(startup_timeout=v)),
    Call("ProcessPoolExecutor", "address|queue", lambda v: _executor(at=v)),
]


def _said(error: BaseException) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_an_argument_that_can_not_be_used_is_named(call):
    wrong = []
    for name, value in VALUES.items():
        try:
            call.call(value)
        except OwnError:
            continue
        except EXPECTED as error:
            text = _said(error)
            if isinstance(error, UNEXPECTED):
                wrong.append(f"{name}: {type(error).__name__}: {text[:200]}")
            elif not any(word in text for word in call.argument):
                wrong.append(f"{name}: not named: {type(error).__name__}: {text[:200]}")
            elif len(text) > 2000 and name != "long text":
                wrong.append(f"{name}: a text of {len(text)} characters: {text[:200]}")
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__}: {_said(error)[:200]}")
    assert wrong == []
