"""Celery and kombu without a broker process: their messages are in shared memory.

    from celery import Celery
    import ipc_queue.celery

    app = Celery("tasks", broker="ipc://tasks")
    ipc_queue.celery.configure(app)

The queue `celery` of that program is the queue `shm:tasks/celery` of the command `ipc`. A message
is acknowledged by the worker; what a killed worker had comes to another. `configure` sets late
acknowledgements, without which Celery acknowledges a task before it runs.
"""

from __future__ import annotations

import contextlib
import re
import select
import time
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, virtual

from . import _ipc
from ._ipc import Delivery
from ._queue import Queue, remove
from .errors import Error, LeaseLost, NotFound, Settled

# Limit for one message, and for all waiting messages of a queue together.
MAX_MESSAGE_BYTES = 16 << 20
MEMORY_BYTES = 64 << 20
CAPACITY = 16_384
# The longest wait before checking whether to stop.
_SLICE = 0.5


class QoS(virtual.QoS):
    """Acknowledges in the queue, not only in this process's memory."""

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message."""
        self.channel.settle(delivery_tag, Delivery.ack)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Return a message to the queue, or make it a dead letter."""
        if requeue:
            self.channel.settle(delivery_tag, lambda held: held.nack("requeued", delay=0))
        else:
            self.channel.settle(delivery_tag, lambda held: held.bury("rejected"))
        # Do not call the parent's method, which would send a copy.
        self._quick_ack(delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Return all unacknowledged messages to their queues."""
        self.channel.give_back()


class Channel(virtual.Channel):
    """A channel whose queues are in shared memory."""

    QoS = QoS
    do_restore = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queues: dict[str, Queue[Any]] = {}
        self._held: dict[Any, Delivery] = {}
        self._unacknowledged: set[str] = set()
        self._readiness: dict[str, _ipc.RawReadiness] = {}

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Receive from a queue."""
        if no_ack:
            self._unacknowledged.add(queue)
        else:
            self._unacknowledged.discard(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Receive a message if there is one."""
        before = queue in self._unacknowledged
        if no_ack:
            self._unacknowledged.add(queue)
        try:
            return super().basic_get(queue, no_ack=no_ack, **kwargs)
        finally:
            if not before:
                self._unacknowledged.discard(queue)

    def settle(self, delivery_tag: Any, how: Any) -> None:
        """End the delivery of a message."""
        held = self._held.pop(delivery_tag, None)
        if held is not None:
            # If the lease was lost, the message belongs to another worker.
            with contextlib.suppress(LeaseLost, Settled):
                how(held)

    def give_back(self) -> None:
        """Return all unsettled messages to their queues."""
        for delivery_tag in list(self._held):
            self.settle(delivery_tag, lambda held: held.nack("the worker ended", delay=0))

    def close(self) -> None:
        """Return unsettled messages, and close."""
        self.give_back()
        super().close()
        self._readiness.clear()
        self._queues.clear()

    def wait_for_messages(self, timeout: float) -> None:
        """Wait until one of the consumed queues may have a message."""
        descriptors = []
        for name in self._active_queues:
            readiness = self._readiness.get(name)
            if readiness is None:
                readiness = self._readiness[name] = self._open(name).raw.recv_readiness()
            readiness.arm()
            if self._size(name):
                return
            descriptors.append(readiness.fileno())
        select.select(descriptors, [], [], timeout)

    def _open(self, queue: str) -> Queue[Any]:
        if queue not in self._queues:
            namespace = _name(self.connection.client.hostname or "celery")
            self._queues[queue] = Queue(
                f"shm:{namespace}/{_name(queue)}",
                codec="json",
                type_name="kombu",
                capacity=CAPACITY,
                max_message_bytes=MAX_MESSAGE_BYTES,
                pool_bytes=MEMORY_BYTES,
            )
        return self._queues[queue]

    def _new_queue(self, queue: str, **_options: Any) -> None:
        self._open(queue)

    def _has_queue(self, queue: str, **_options: Any) -> bool:
        return True

    def _put(self, queue: str, message: Any, **_options: Any) -> None:
        self._open(queue).put(message)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        delivery = self._open(queue).get(0)
        message = delivery.data
        if queue in self._unacknowledged:
            delivery.ack()
        else:
            self._held[message["properties"]["delivery_tag"]] = delivery
        return message

    def _size(self, queue: str) -> int:
        return self._open(queue).qsize()

    def _purge(self, queue: str) -> int:
        return self._open(queue).purge()

    def _delete(self, queue: str, *_args: Any, **_options: Any) -> None:
        opened = self._queues.pop(queue, None)
        self._readiness.pop(queue, None)
        if opened is not None:
            with contextlib.suppress(NotFound):
                remove(opened.address)


class Transport(virtual.Transport):
    """Messages in shared memory: `ipc://NAMESPACE`."""

    Channel = Channel
    driver_type = "ipc"
    driver_name = "ipc-queue"
    # No polling: the queue wakes us.
    polling_interval = None
    connection_errors = (*virtual.Transport.connection_errors, Error)
    channel_errors = (*virtual.Transport.channel_errors, Error)

    def driver_version(self) -> str:
        """Return the version of this package."""
        return "0.1.0"

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver a message, or raise `socket.timeout`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                self.cycle.get(self._deliver, timeout=timeout)
                return
            except Empty:
                left = _SLICE if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None
                self._wait(min(left, _SLICE))

    def _wait(self, timeout: float) -> None:
        channels = [channel for channel in self.channels if channel._active_queues]
        if len(channels) == 1:
            channels[0].wait_for_messages(timeout)
        else:
            # Several channels take turns.
            for channel in channels or [None]:
                if channel is None:
                    time.sleep(min(timeout, 0.02))
                else:
                    channel.wait_for_messages(min(timeout, 0.02))


# Tasks are acknowledged when they are done, the task of a killed process is redelivered, and
# workers take no tasks ahead. Broadcasts need a broker.
_CONFIGURATION = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_enable_remote_control": False,
}


def configure(app: Any) -> None:
    """Set a Celery program up so that no task is lost with its worker, whatever it says itself.

    Without this call the same settings are defaults of each program that is made after this module
    was imported and whose `broker` is `ipc://`: what the program says itself goes first.
    """
    app.conf.update(_CONFIGURATION)


def _on_configure(sender: Any, **_rest: Any) -> None:
    # By now the program's settings are known, and no task has copied from them yet.
    conf = sender.conf
    urls = (conf.broker_read_url, conf.broker_write_url, conf.broker_url)
    if any(str(url).startswith("ipc://") for url in urls):
        # These come before Celery's own defaults, but after everything that the program sets.
        for maps in (conf.maps, conf.defaults):
            maps.insert(len(maps) - 1, _CONFIGURATION)


# kombu may be used without Celery. Celery has no hook for the defaults of a transport, so every app
# created from now on gets a callback.
with contextlib.suppress(ImportError):
    from celery import Celery

    _on_init = Celery.on_init

    def _listening(app: Any) -> None:
        _on_init(app)
        app.on_after_configure.connect(_on_configure)

    Celery.on_init = _listening


def _name(name: str) -> str:
    """Return a kombu name as a name in shared memory."""
    return re.sub(r"[^a-z0-9._-]", "-", name.lower())[:64].lstrip("._-") or "queue"


TRANSPORT_ALIASES["ipc"] = "ipc_queue.celery:Transport"
