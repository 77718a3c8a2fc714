"""Shared memory under a lock for all processes, and groups that see which members live."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Any, Self

from . import _ipc


class SharedBuffer:
    """Bytes that several processes share by a name.

    Each read and each write is atomic. If a process is killed in the middle of a write, reading the
    bytes that it was writing raises `Torn` until they are written anew.

    `buf` is the memory itself, for arrays that are worked on in place.

    With `size` the buffer is created if it does not exist; without it, it must exist.

        counters = SharedBuffer("counters", 64)
        counters[0:8] = (7).to_bytes(8, "little")
        print(counters[0:8], bytes(counters))
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        *,
        namespace: str = "default",
        timeout: float = 5.0,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self._timeout = timeout
        self._raw = _ipc.RawBuffer(namespace, name, size, timeout)

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return a copy of `size` bytes at `offset`; without `size`, of all bytes from there."""
        return self._raw.read(offset, size)

    def write(self, data: Any, offset: int = 0) -> None:
        """Copy anything that exports bytes, such as an array, to `offset`."""
        self._raw.write(offset, memoryview(data).cast("B"))

    def __getitem__(self, part: slice) -> bytes:
        start, stop = self._range(part)
        return self.read(start, stop - start)

    def __setitem__(self, part: slice, data: Any) -> None:
        start, stop = self._range(part)
        view = memoryview(data).cast("B")
        if view.nbytes != stop - start:
            raise ValueError(f"{view.nbytes} bytes do not fit into {stop - start}")
        self._raw.write(start, view)

    def __bytes__(self) -> bytes:
        return self.read()

    @property
    def buf(self) -> memoryview:
        """The bytes themselves, writable, as those of `multiprocessing.shared_memory`.

        Whoever reads or writes through it does so without the lock: all who use the buffer must
        have agreed, by a queue, a barrier or the like, on who writes which bytes when. A writer
        that is killed halfway leaves no `Torn`. The view keeps the memory until it is released.
        """
        return memoryview(self._raw)

    def __buffer__(self, flags: int, /) -> memoryview:
        """As `buf` (from Python 3.12 on)."""
        return self.buf

    def accept_torn(self) -> tuple[int, int] | None:
        """Accept bytes whose writer was killed halfway as they are. Return their range."""
        return self._raw.accept_torn()

    def users(self) -> list[int]:
        """Return the ids of the processes that use the buffer now."""
        return self._raw.users()

    def remove(self) -> bool:
        """Remove the buffer. Processes that use it can continue to do so."""
        return _ipc.remove_buffer(self.namespace, self.name)

    def _range(self, part: slice) -> tuple[int, int]:
        if not isinstance(part, slice):
            raise TypeError(f"a shared buffer has slices only, not {type(part).__name__}")
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("a slice of a shared buffer has no step")
        return start, max(start, stop)

    def __reduce__(self) -> Any:
        return _connect, (self.name, self.namespace, self._timeout)


def _connect(name: str, namespace: str, timeout: float) -> SharedBuffer:
    return SharedBuffer(name, namespace=namespace, timeout=timeout)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeInfo:
    """Information about a member of a group."""

    name: str
    pid: int
    health: str
    """`alive`; `stale`: it has not beaten in time; `dead`: its process ended; `left`."""
    joined_ago: float
    last_beat_ago: float


class Node:
    """This process as a member of a group, by a name that no other member has.

    A thread beats every `interval` seconds. With `interval=None` only
    `beat` beats, which exposes a process that hangs.
    """

    def __init__(
        self,
        name: str,
        *,
        namespace: str = "default",
        interval: float | None = 5.0,
        timeout: float = 10.0,
    ) -> None:
        self.name = name
        self._timeout = timeout
        self._raw = _ipc.RawNode(namespace, name, interval, timeout)

    def beat(self) -> None:
        """Record that this process is healthy."""
        self._raw.beat()

    def health(self, name: str, timeout: float | None = None) -> str | None:
        """Return the health of a member: see `NodeInfo`. `None`: no member had the name."""
        return self._raw.health(name, self._timeout if timeout is None else timeout)

    def peers(self) -> list[NodeInfo]:
        """Return the members of the group, this one included."""
        return [NodeInfo(*row) for row in self._raw.peers()]

    def leave(self) -> None:
        """Leave the group."""
        self._raw.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()


def remove_nodes(namespace: str = "default") -> bool:
    """Remove a group's table. `False`: it has living members, or there is no table."""
    return _ipc.remove_nodes(namespace)


def nodes(namespace: str = "default", timeout: float = 10.0) -> list[NodeInfo]:
    """Return the members of a group, without joining it."""
    return [NodeInfo(*row) for row in _ipc.nodes(namespace, timeout)]
