from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, final

from typing_extensions import Buffer, disjoint_base

_T = TypeVar("_T")

__all__ = [
    "Delivery",
    "QueueCalls",
    "RawBuffer",
    "RawNode",
    "RawPool",
    "RawQueue",
    "RawReadiness",
    "after_fork_in_child",
    "before_fork",
    "namespaces",
    "nodes",
    "pack",
    "queues",
    "remove",
    "remove_buffer",
    "remove_nodes",
    "remove_unused",
    "unpack",
    "work",
]

@final
class Delivery:
    """A message that this process holds until it is settled."""

    @property
    def data(self) -> Any:
        """The message's content, decoded; a copy, made at the first access."""
    @property
    def attempt(self) -> int:
        """How often the message was delivered, this time included."""
    @property
    def id(self) -> str:
        """The message's id, the same at each delivery."""
    @property
    def kind(self) -> str:
        """What the message is for: `data`, `control`, `heartbeat` or `shutdown`."""
    @property
    def sent_at(self) -> float:
        """When the message was sent, in seconds since 1970."""
    @property
    def token(self) -> int:
        """A number that grows with each delivery of the message: a fencing token."""
    @property
    def headers(self) -> dict[str, bytes]:
        """The message's headers."""
    @property
    def settled(self) -> bool:
        """Whether it was acked, nacked, put off or buried."""
    def view(self) -> memoryview:
        """The message's bytes where they lie, read-only. Release the view before settling."""
    def tobytes(self) -> bytes:
        """A copy of the message's bytes."""
    def ack(self) -> None:
        """The work is done: the message is never delivered again."""
    def nack(self, reason: str = "", *, delay: float | None = None) -> None:
        """The attempt failed: the message is delivered again."""
    def snooze(self, delay: float) -> None:
        """Put the message off for `delay` seconds. Not an attempt."""
    def bury(self, reason: str = "") -> None:
        """The message is never delivered again, but kept as a dead letter."""
    def extend(self, by: float) -> None:
        """Renew the lease: it ends no earlier than `by` seconds from now."""
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> Literal[False]: ...
    def __aenter__(self) -> Any: ...
    def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> Any: ...

@disjoint_base
class QueueCalls(Generic[_T]):
    """The base class of `ipc_queue.Queue`."""

    def __new__(cls, *_arguments: Any, **_options: Any) -> Self: ...
    def _attach(
        self,
        raw: RawQueue,
        encode: Callable[[Any], Any],
        decode: Callable[[Any], Any] | None = None,
        pickle: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None: ...
    @property
    def raw(self) -> RawQueue: ...
    def put(
        self,
        value: _T,
        timeout: float | None = None,
        *,
        key: str | bytes | None = None,
        priority: str | None = None,
        delay: float | None = None,
        expires_in: float | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        drop_oldest: bool = False,
    ) -> bool:
        """Send a message. Once this returns, the message survives the death of every process."""
    def put_many(self, values: Iterable[_T], timeout: float | None = None) -> None:
        """Send messages in order, at a lower cost than one by one."""
    def get(self, timeout: float | None = None) -> Delivery:
        """Receive the next message."""
    def get_many(self, most: int, timeout: float | None = None) -> list[Delivery]:
        """Receive up to `most` messages: waits for the first, then takes what else is available."""
    def take(self, timeout: float | None = None) -> _T:
        """Receive the next message and acknowledge it at once. Return its content."""
    def take_many(self, most: int, timeout: float | None = None) -> list[_T]:
        """Receive up to `most` messages and acknowledge them. Return the list of their contents."""

@final
class RawQueue:
    """A queue that is open."""

    def __new__(
        cls,
        address: str,
        mode: str = "open or create",
        payload: str = "",
        settings: dict[str, Any] | None = None,
        any_payload: bool = False,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def payload(self) -> str | None: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    def put(self, payload: Buffer, timeout: float | None = None) -> None: ...
    def put_parts(
        self,
        parts: list[Any],
        timeout: float | None = None,
        options: dict[str, Any] | None = None,
    ) -> bool: ...
    def put_batch(self, payloads: list[Any], timeout: float | None = None) -> None: ...
    def get(
        self, timeout: float | None = None, decode: Callable[[Any], Any] | None = None
    ) -> Delivery: ...
    def get_batch(
        self,
        most: int,
        timeout: float | None = None,
        decode: Callable[[Any], Any] | None = None,
    ) -> list[Delivery]: ...
    def take(
        self,
        timeout: float | None = None,
        decode: Callable[[Any], Any] | None = None,
        bury: bool = False,
        loads: Callable[[Any], Any] | None = None,
    ) -> Any: ...
    def recv_readiness(self) -> RawReadiness: ...
    def send_readiness(self) -> RawReadiness: ...
    def close(self) -> None: ...
    def reopen(self) -> None: ...
    def is_closed(self) -> bool: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def is_paused(self) -> bool: ...
    def purge(self) -> int: ...
    def drain(self, timeout: float | None = None) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def leases(self) -> list[tuple[str, int, str, int]]: ...
    def dead_letters(self) -> list[dict[str, Any]]: ...
    def requeue(self, id: tuple[int, int]) -> bool: ...
    def discard(self, id: tuple[int, int]) -> bool: ...

@final
class RawReadiness:
    """A descriptor that is readable when it is time to look at the queue."""

    def fileno(self) -> int: ...
    def arm(self) -> None: ...

@final
class RawPool:
    """Worker processes that run pickled calls."""

    def __new__(cls, workers: int, command: list[str], settings: dict[str, Any]) -> Self: ...
    def submit(self, call: Buffer, future: Any, timeout: float | None = None) -> int: ...
    def events(self, timeout: float) -> list[tuple[Any, str, Any, int | None, int]]: ...
    def open_futures(self) -> list[Any]: ...
    def forget_open(self) -> list[Any]: ...
    def cancel(self, job: int) -> None: ...
    def workers(self) -> list[tuple[int, str, int, bool, int | None, int]]: ...
    def kill_worker(self, number: int) -> None: ...
    def close(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> str | None: ...
    @property
    def has_ended(self) -> bool: ...
    @property
    def address(self) -> str: ...

@final
class RawBuffer:
    """Bytes that several processes share. Each read and each write is atomic."""

    def __new__(
        cls, namespace: str, name: str, size: int | None = None, timeout: float = 5.0
    ) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def read(self, offset: int, size: int | None = None) -> bytes: ...
    def write(self, offset: int, bytes: Buffer) -> None: ...
    def accept_torn(self) -> tuple[int, int] | None: ...
    def users(self) -> list[int]: ...

@final
class RawNode:
    """This process as a member of a group, under a name."""

    def __new__(cls, namespace: str, name: str, interval: float | None, timeout: float) -> Self: ...
    def beat(self) -> None: ...
    def health(self, name: str, timeout: float) -> str | None: ...
    def peers(self) -> list[tuple[str, int, str, float, float]]: ...
    def leave(self) -> None: ...

def remove_buffer(namespace: str, name: str) -> bool: ...
def nodes(namespace: str, timeout: float) -> list[tuple[str, int, str, float, float]]: ...
def remove_nodes(namespace: str) -> bool: ...
def work(call: Callable[[bytes, int], bytes]) -> int | None: ...
def pack(value: Any, default: Callable[[Any], Any] | None = None) -> bytes: ...
def unpack(bytes: Buffer) -> Any: ...
def remove(address: str) -> bool: ...
def namespaces(prefix: str) -> list[str]: ...
def queues(namespace: str) -> list[str]: ...
def remove_unused(namespace: str, name: str) -> bool: ...
def before_fork() -> None: ...
def after_fork_in_child() -> None: ...
