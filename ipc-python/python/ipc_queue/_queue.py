"""The queue, which is all that most programs need."""

from __future__ import annotations

import dataclasses
import pickle
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _ipc, codecs
from ._ipc import Delivery
from .codecs import Codec
from .errors import Closed, Empty, Full

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

_MODES = ("open", "create", "open or create")


class Stats(types.SimpleNamespace):
    """Counters of a queue since its creation, and its present content."""

    sent: int
    bytes_sent: int
    refused: int
    received: int
    bytes_received: int
    redelivered: int
    acked: int
    nacked: int
    buried: int
    expiries: int
    crashes: int
    leases_lost: int
    expired: int
    purged: int
    overflowed: int
    duplicates: int
    ready: int
    writing: int
    leased: int
    delayed: int
    dead: int
    quarantined: int
    chunks_in_use: int
    keys: int
    participants: int
    paused: bool
    closed: bool
    only_this_process: bool
    """The counters are those of this process alone: over NATS, each process keeps its own."""

    @property
    def unsettled(self) -> int:
        """The number of messages that are neither settled nor dead letters."""
        return self.ready + self.writing + self.leased + self.delayed


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A message that a process holds now."""

    holder: str
    pid: int
    message: str
    attempt: int


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A message that is no longer delivered, with the reason."""

    id: tuple[int, int]
    message: str
    sent_at: float
    attempts: int
    reason: str
    nacks: int
    expiries: int
    crashes: int
    last_worker: int | None
    signal: int | None
    error: str
    headers: dict[str, bytes]
    payload: bytes
    _queue: Queue[Any] = dataclasses.field(repr=False, compare=False)

    @property
    def data(self) -> Any:
        """The content, decoded."""
        return self._queue.codec.decode(self.payload)

    def requeue(self) -> bool:
        """Requeue it as a message. Returns `False` if the letter is gone."""
        return self._queue.raw.requeue(self.id)

    def discard(self) -> bool:
        """Drop it. Returns `False` if the letter is gone."""
        return self._queue.raw.discard(self.id)


class Queue(_ipc.QueueCalls[T], Generic[T]):
    """A queue that any process opens by its address.

    Addresses are `shm:NAME` and `shm:NAMESPACE/NAME` (processes of this machine), `unix:/PATH`
    (with the process that serves it there), `nats://HOST/NAME` (JetStream; processes of several
    machines) and `local:NAME` (threads of this process).

    A message is delivered until it is acknowledged, whichever process is killed. All methods may be
    called from any thread, and in a forked copy of the process.

    `codec` is `bytes`, `pickle`, `json` or `msgpack`. Without it, a queue that exists keeps its
    own, and a new one has `pickle`. `type` is the record type of `json` or `msgpack` messages: a
    dataclass, a `msgspec.Struct` or a pydantic model.

    A pickle runs code when it is read. So a queue of pickles at a `nats:` address is refused,
    unless `allow_pickle` says that everybody who can reach the server may do that.

    `settings` are used to create the queue; one that exists must agree with them: `capacity`,
    `max_message_bytes`, `pool_bytes`, `inline_bytes`, `lease`, `attempt_limit`, `crash_limit`,
    `expiry_limit`, `backoff`, `priorities`, `aging`, `dedup_window`, `dedup_keys` and
    `max_participants`. Times are in seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        codec: str | Codec | None = None,
        type: Any = None,
        type_name: str | None = None,
        mode: str = "open or create",
        allow_pickle: bool = False,
        **settings: Any,
    ) -> None:
        if not isinstance(mode, str):
            raise TypeError(f"mode is a str, not {mode.__class__.__name__}")
        if mode not in _MODES:
            known = ", ".join(map(repr, _MODES))
            raise ValueError(f"mode {mode!r:.80}: one of {known}")
        if isinstance(codec, str):
            codec = codecs.named(codec, type, type_name)
        elif codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"codec is a name or a Codec, not {codec.__class__.__name__}")
        if not allow_pickle:
            codecs.refuse_pickle(address, codec)
        # An existing queue is opened whatever it carries, and compared afterwards.
        created_as = (codec or codecs.PickleCodec()).payload
        if mode == "create":
            raw = _ipc.RawQueue(address, "create", created_as, settings)
        else:
            raw = _open(address, mode, created_as, settings)
        self.codec: Codec = codecs.of_queue(address, raw.payload or "", codec, type)
        if not allow_pickle:
            codecs.refuse_pickle(address, self.codec)
        self._allow_pickle = allow_pickle
        self._type = type
        found = self.codec
        # Bytes need no call into Python, and plain pickles one.
        decode = None if isinstance(found, codecs.BytesCodec) else found.decode
        plain = (pickle.dumps, pickle.loads) if found.__class__ is codecs.PickleCodec else None
        self._attach(raw, found.encode, decode, plain)

    @property
    def address(self) -> str:
        """The address with which the queue was opened."""
        return self.raw.address

    @property
    def settings(self) -> dict[str, Any]:
        """The settings with which the queue was created."""
        return self.raw.settings

    def __iter__(self) -> Iterator[Delivery]:
        """Receive messages until the queue is closed and everything in it is settled."""
        while True:
            try:
                delivery = self.get()
            except Closed:
                return
            yield delivery
            # Do not keep it while waiting for the next one.
            del delivery

    async def get_async(self, timeout: float | None = None) -> Delivery:
        """Receive the next message without blocking the event loop. Uses no thread."""
        return await _when_ready(lambda: self.get(0), self.raw.recv_readiness, Empty, timeout)

    async def put_async(self, value: T, timeout: float | None = None, **options: Any) -> bool:
        """Send a message without blocking the event loop. Takes the options of `put`."""
        return await _when_ready(
            lambda: self.put(value, 0, **options), self.raw.send_readiness, Full, timeout
        )

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """Receive messages until the queue is closed and everything in it is settled."""
        while True:
            try:
                delivery = await self.get_async()
            except Closed:
                return
            yield delivery
            del delivery

    def close(self) -> None:
        """Accept no more messages. Messages in the queue are still delivered."""
        self.raw.close()

    def reopen(self) -> None:
        """Accept messages again."""
        self.raw.reopen()

    @property
    def closed(self) -> bool:
        """Return whether the queue is closed to new messages."""
        return self.raw.is_closed()

    def pause(self) -> None:
        """Deliver nothing until any process calls `resume`."""
        self.raw.pause()

    def resume(self) -> None:
        """Deliver again."""
        self.raw.resume()

    @property
    def paused(self) -> bool:
        """Return whether the queue is paused."""
        return self.raw.is_paused()

    def purge(self) -> int:
        """Drop all waiting messages. Return their number."""
        return self.raw.purge()

    def drain(self, timeout: float | None = None) -> None:
        """Close the queue, then wait until everything in it is settled."""
        self.raw.drain(timeout)

    def remove(self) -> bool:
        """Remove the queue with everything in it. Returns `False` if it is already gone."""
        return _ipc.remove(self.address)

    def stats(self) -> Stats:
        """Return the queue's counters and its present content."""
        return Stats(**self.raw.stats())

    def qsize(self) -> int:
        """Return the number of messages that wait to be delivered."""
        return self.raw.stats()["ready"]  # type: ignore[no-any-return]

    def leases(self) -> list[LeaseInfo]:
        """Return the present leases: which process holds which message."""
        return [LeaseInfo(*lease) for lease in self.raw.leases()]

    def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters, ordered by place, the oldest first."""
        return [DeadLetter(**letter, _queue=self) for letter in self.raw.dead_letters()]

    def __repr__(self) -> str:
        return f"<Queue {self.address!r} of {self.codec.payload or 'bytes'}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.address, self.codec.name, self._type, self._allow_pickle)


def remove(address: str) -> bool:
    """Remove a queue with everything in it. Returns `False` if it does not exist."""
    return _ipc.remove(address)


def _open(address: str, mode: str, created_as: str, settings: dict[str, Any]) -> _ipc.RawQueue:
    return _ipc.RawQueue(address, mode, created_as, settings, any_payload=True)


def _unpickle(address: str, codec: str, type_: Any, allow_pickle: bool) -> Queue[Any]:
    return Queue(
        address,
        codec=codec if type_ is None else None,
        type=type_,
        mode="open",
        allow_pickle=allow_pickle,
    )


async def _when_ready(
    attempt: Callable[[], T],
    make_readiness: Callable[[], _ipc.RawReadiness],
    nothing: type[Exception],
    timeout: float | None,
) -> T:
    """Call `attempt` until it does not raise `nothing`; between calls, wait for a descriptor."""
    try:
        return attempt()
    except nothing:
        if timeout == 0:
            raise
    # Imported only here, because it takes as long as starting Python.
    import asyncio

    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    readiness = make_readiness()
    descriptor = readiness.fileno()
    while True:
        # First arm it, then look: anything that arrives after the look makes it readable.
        readiness.arm()
        try:
            return attempt()
        except nothing:
            if deadline is not None and loop.time() >= deadline:
                raise
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(descriptor, _set, readable)
        try:
            left = None if deadline is None else max(0.0, deadline - loop.time())
            await asyncio.wait([readable], timeout=left)
        finally:
            loop.remove_reader(descriptor)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
