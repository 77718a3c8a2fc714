"""Queues with the methods of `multiprocessing`: change the import and nothing else.

    from ipc_queue.mp import JoinableQueue, Queue, SimpleQueue

A process that dies neither blocks the others nor takes messages with it, except one: an object that
`Queue.get` has returned is that process's alone. `JoinableQueue` has no such gap: `task_done` is
the acknowledgement, and what a dead process had not acknowledged comes to another.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import random
import re
import sys
import threading
import time
import warnings
import weakref
from multiprocessing import util
from typing import Any, Generic, TypeVar

from . import _arguments, _ipc, _system, codecs
from ._ipc import Delivery
from .errors import Full, NotFound, Removed

T = TypeVar("T")

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

_PLACES = 16_384
_MEMORY_BYTES = 16 << 20
_MOST_PLACES = 1 << 20
# A `put` warns if it has waited this long without any receiver.
_WARN_AFTER = 5.0
_JOIN_SLICES = (0.001, 0.002, 0.005, 0.01, 0.02)
_NAMESPACE = re.compile(r"py-(\d+)-(\d+)$")


class _Base(Generic[T]):
    """A queue with a unique name, which is removed when its creator no longer uses it."""

    def __init__(self, maxsize: int, memory: int, at: str | None, allow_pickle: bool) -> None:
        # As in `multiprocessing`, less than one means without a limit.
        maxsize = max(0, _arguments.whole("maxsize", maxsize, -sys.maxsize, _MOST_PLACES))
        memory = _arguments.whole("memory", memory, 0, sys.maxsize)
        if at is not None and not isinstance(at, str):
            raise TypeError(f"an address is a str, not {type(at).__name__}")
        self._maxsize = maxsize
        _sweep()
        name = random.SystemRandom().randbytes(8).hex()
        try:
            namespace = _namespace()
        except OSError as error:
            raise _system.refused("the queue can't be created", error) from error
        address = f"shm:{namespace}/{name}" if at is None else f"{at.rstrip('/')}/py-{name}"
        if not allow_pickle:
            codecs.refuse_pickle(address, "pickle")
        settings = {
            "capacity": self._maxsize or _PLACES,
            "pool_bytes": memory,
            # With one that takes all of the memory, the queue would hold no second one.
            "max_message_bytes": min(memory // 2, 1 << 30),
            "attempt_limit": 250,
            "crash_limit": 250,
            "backoff": 0,
        }
        raw = _ipc.RawQueue(address, "create", "pickle", settings)
        self._attach(raw)
        self._owned = _Owned(address)
        self._removal = util.Finalize(self, self._owned.remove, exitpriority=-10)
        _owned.add(self._owned)

    def _attach(self, raw: _ipc.RawQueue) -> None:
        self._raw = raw
        codec = codecs.PickleCodec(for_multiprocessing=True)
        self._encode, self._decode = codec.encode, codec.decode
        self._closed = False

    def __getstate__(self) -> Any:
        if (owned := getattr(self, "_owned", None)) is not None:
            owned.shared = True
        return self._maxsize, self._raw.address

    def __setstate__(self, state: Any) -> None:
        self._maxsize, address = state
        self._attach(_ipc.RawQueue(address, "open", "pickle"))

    @property
    def address(self) -> str:
        """The queue's address, for `ipc_queue.Queue` and for the command `ipc`."""
        return self._raw.address

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")

    def _put(self, obj: T, timeout: float | None) -> None:
        body = self._encode(obj)
        try:
            # Usually there is room.
            if type(body) is bytes:
                self._raw.put(body, 0)
            else:
                self._raw.put_parts(body, 0)  # type: ignore[arg-type]
        except Full:
            if timeout == 0:
                raise
            self._put_within(body, timeout)
        except (Removed, NotFound) as error:
            raise ValueError(f"Queue {self!r} is closed: its creator ended") from error

    def _put_within(self, body: Any, timeout: float | None) -> None:
        started = time.monotonic()
        first = _WARN_AFTER if timeout is None else min(timeout, _WARN_AFTER)
        try:
            return self._send(body, first)
        except Full:
            if timeout is not None and timeout <= _WARN_AFTER:
                raise
        if self._raw.stats()["received"] == 0:
            warnings.warn(
                f"put has waited for {_WARN_AFTER:.0f} s: the queue of {self._places} places and "
                f"{self._raw.settings['pool_bytes']} bytes is full, and no process has received "
                "from it yet. Give the queue a larger maxsize or memory, or start the receiver "
                "first",
                RuntimeWarning,
                stacklevel=4,
            )
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
        return self._send(body, left)

    def _send(self, body: Any, timeout: float | None) -> None:
        if isinstance(body, bytes):
            self._raw.put(body, timeout)
        else:
            self._raw.put_parts(body, timeout)

    @property
    def _places(self) -> int:
        return self._maxsize or _PLACES

    def _receive(self, timeout: float | None) -> Delivery:
        return self._raw.get(timeout, self._decode)

    def _take(self, timeout: float | None) -> Any:
        # A message that can't be unpickled becomes a dead letter.
        return self._raw.take(timeout, self._decode, True, pickle.loads)

    def _data(self, delivery: Delivery) -> Any:
        """Return the object. A message that can't be unpickled becomes a dead letter."""
        try:
            return delivery.data
        except Exception as error:
            delivery.bury(_reason(error))
            raise

    def empty(self) -> bool:
        """Return whether no message waits."""
        return self._raw.stats()["ready"] == 0  # type: ignore[no-any-return]


class Queue(_Base[T]):
    """A `multiprocessing.Queue` that survives the death of every process.

    `maxsize=0` is 16,384 places, not infinitely many. `memory` is for objects of more than 192
    bytes, pickled; 16 MiB by default. An object larger than half of it raises `TooLarge` in `put`.

    With `at="nats://HOST"` the queue is at that server, for processes of several machines. That
    needs `allow_pickle=True`: a pickle from anyone who can reach the server runs code here.
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        ctx: Any = None,
        memory: int = _MEMORY_BYTES,
        at: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(maxsize, memory, at, allow_pickle)

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Send an object. What can't be pickled raises here."""
        self._check_open()
        self._put(obj, timeout if block else 0)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Receive an object. From then on it belongs to this process."""
        self._check_open()
        return self._take(_limit(block, timeout))  # type: ignore[no-any-return]

    def put_nowait(self, obj: T) -> None:
        """Send an object if there is room now."""
        self.put(obj, False)

    def get_nowait(self) -> T:
        """Receive an object if there is one now."""
        return self.get(False)

    def qsize(self) -> int:
        """Return the number of objects that wait."""
        return self._raw.stats()["ready"]  # type: ignore[no-any-return]

    def full(self) -> bool:
        """Return whether `maxsize` objects wait."""
        return self.qsize() >= self._places

    def close(self) -> None:
        """Stop using the queue in this process."""
        self._closed = True

    def join_thread(self) -> None:
        """Return at once: there is no thread, and what `put` has sent is in the queue."""
        if not self._closed:
            raise AssertionError(f"Queue {self!r} is not closed")

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread."""


class JoinableQueue(Queue[T]):
    """A `multiprocessing.JoinableQueue` whose `task_done` is an acknowledgement.

    What a process got and did not acknowledge when it died comes to another process.
    """

    def _attach(self, raw: _ipc.RawQueue) -> None:
        super()._attach(raw)
        self._unfinished: collections.deque[Delivery] = collections.deque()
        self._owner = os.getpid()

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Receive an object. It is delivered again if this process dies before `task_done`."""
        self._check_open()
        self._forget_parents()
        delivery = self._receive(_limit(block, timeout))
        data = self._data(delivery)
        self._unfinished.append(delivery)
        return data  # type: ignore[no-any-return]

    def task_done(self) -> None:
        """Acknowledge the oldest object that this process got and did not acknowledge."""
        self._forget_parents()
        try:
            delivery = self._unfinished.popleft()
        except IndexError:
            raise ValueError("task_done() called too many times") from None
        delivery.ack()

    def join(self) -> None:
        """Wait until every object that was put is acknowledged."""
        tries = 0
        while self._is_unfinished():
            # The last acknowledgement wakes no waiter, so poll, quickly at first.
            _pause(_JOIN_SLICES[min(tries, len(_JOIN_SLICES) - 1)])
            tries += 1

    def _is_unfinished(self) -> bool:
        stats = self._raw.stats()
        return any(stats[name] for name in ("ready", "writing", "leased", "delayed"))

    def _forget_parents(self) -> None:
        """Drop the deliveries in a forked copy, where they are the parent's."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._unfinished.clear()


class SimpleQueue(_Base[T]):
    """A `multiprocessing.SimpleQueue` that survives the death of every process."""

    def __init__(
        self,
        *,
        ctx: Any = None,
        memory: int = _MEMORY_BYTES,
        at: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(0, memory, at, allow_pickle)

    def put(self, obj: T) -> None:
        """Send an object."""
        self._check_open()
        self._put(obj, None)

    def get(self) -> T:
        """Receive an object."""
        self._check_open()
        return self._take(None)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop using the queue in this process."""
        self._closed = True


class _Owned:
    """A queue that this process has created and must remove."""

    def __init__(self, address: str) -> None:
        self._address = address
        # It was sent to another process, or a copy of this one has it: it stays until this process
        # exits.
        self.shared = False
        self.owner = os.getpid()

    def remove(self, *, now: bool = False) -> None:
        if self.owner != os.getpid():
            return
        if self.shared and not now and not _is_exiting():
            _keep_until_exit(self)
            return
        with contextlib.suppress(Exception):
            if codecs.is_far(self._address):
                _ipc.remove(self._address)
                return
            # The next process sweeps those that others have open.
            namespace, _, name = self._address.removeprefix("shm:").partition("/")
            _ipc.remove_unused(namespace, name)


_owned: weakref.WeakSet[_Owned] = weakref.WeakSet()


# Queues without an object in this process that others may use, and the process that owns them.
_kept: list[_Owned] = []
_kept_by: list[int] = []


def _keep_until_exit(owned: _Owned) -> None:
    if _kept_by != [os.getpid()]:
        _kept.clear()
        _kept_by[:] = [os.getpid()]
        # After multiprocessing has joined its processes.
        util.Finalize(None, _remove_kept, exitpriority=-11)
    _kept.append(owned)


def _remove_kept() -> None:
    kept = list(_kept)
    _kept.clear()
    _kept_by.clear()
    for owned in kept:
        owned.remove(now=True)


def _mark_shared() -> None:
    for owned in list(_owned):
        owned.shared = True


os.register_at_fork(before=_mark_shared)


def _is_exiting() -> bool:
    return bool(getattr(util, "_exiting", False))


def _reason(error: Exception) -> str:
    name = type(error).__name__
    try:
        text = f"{name}: {error}"
    except Exception:  # Its own method fails.
        text = name
    return text.encode(errors="replace").decode()


def _limit(block: bool, timeout: float | None) -> float | None:
    return timeout if block else 0


_never = threading.Event()


def _pause(seconds: float) -> None:
    _never.wait(seconds)


def _start_ticks(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[19]


def _namespace() -> str:
    """The namespace of this process's own queues."""
    pid = os.getpid()
    return f"py-{pid}-{_start_ticks(pid)}"


def _sweep() -> None:
    """Remove the queues of dead processes that no process has open."""
    with contextlib.suppress(OSError):
        for namespace in _ipc.namespaces("py-"):
            owner = _NAMESPACE.match(namespace)
            if owner is None:
                continue
            with contextlib.suppress(OSError, IndexError):
                if _start_ticks(int(owner[1])) == owner[2]:
                    continue
            # The pid may be unused or reused. A lock tells whether a process has it open.
            for name in _ipc.queues(namespace):
                with contextlib.suppress(Exception):
                    _ipc.remove_unused(namespace, name)
