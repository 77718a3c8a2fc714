"""The exceptions. Figures are attributes: `NoSpace.needed`, `TooLarge.most` and so on."""

from __future__ import annotations

import queue
from concurrent.futures.process import BrokenProcessPool


class Error(Exception):
    """The base of all exceptions of this package."""


class Empty(Error, queue.Empty):
    """There is no message, or none arrived in time."""


class Full(Error, queue.Full):
    """There is no room for a message, or no room became free in time."""

    capacity: int | None = None
    """The number of places, if all of them are taken."""
    bytes: int | None = None
    """The size of a message for which there is no memory."""
    dead: int = 0
    """The number of dead letters in the queue: requeue or discard them."""


class Closed(Error, ValueError):
    """The queue is closed. A receiver gets this when all messages in it are settled."""


class Removed(Error):
    """The queue was removed, or its file was deleted: open it again."""


class Forked(Error):
    """This process is a copy of the one that has the message or the pool."""


class TooLarge(Error, ValueError):
    """The message is larger than the queue accepts."""

    bytes: int = 0
    """The size of the message."""
    most: int = 0
    """The largest size that the queue accepts: its `max_message_bytes`."""


class KeyInUse(Full):
    """Another sender is sending a message with the same key."""


class EmptyKey(Error, ValueError):
    """The key has no bytes."""


class KeysFull(Error):
    """The queue remembers as many keys as it can."""

    keys: int = 0


class Unsupported(Error):
    """The queue, or its transport, can't do that."""


class Damaged(Error):
    """The queue's memory was truncated or is inconsistent."""


class DescriptorLost(Error, OSError):
    """Something in this process closed the descriptor of the queue's file."""


class Unreachable(Error, ConnectionError):
    """The server of the queue does not answer."""


class LeaseLost(Error):
    """The lease expired: the message was, or will be, delivered again."""


class Torn(Error):
    """A process was killed while it wrote these bytes: write them again, or accept them."""


class LockTimedOut(Error, TimeoutError):
    """Another process had the buffer's lock for too long."""


class Settled(Error, ValueError):
    """The delivery is settled already."""


class NotDrained(Error, TimeoutError):
    """The time ran out before all messages were settled."""

    left: int = 0
    """The number of messages that were left."""


class NotFound(Error, LookupError):
    """The queue does not exist."""


class Exists(Error):
    """The queue exists already."""


class SettingsDiffer(Error, ValueError):
    """The queue exists with another setting."""


class CodecDiffers(Error, TypeError):
    """The queue exists with another encoding, or another type."""


class PickleRefused(Error, ValueError):
    """Messages from other machines would be unpickled, which runs code: pass `allow_pickle`."""


class BadAddress(Error, ValueError):
    """The text is not the address of a queue."""


class BadSettings(Error, ValueError):
    """A setting is out of its range."""


class EncodeError(Error, TypeError):
    """The object has no form in the queue's encoding."""


class DecodeError(Error, ValueError):
    """The message can't be read in the queue's encoding."""


class NoSpace(Error, OSError):
    """There is not enough shared memory."""

    free: int = 0
    """The number of available bytes."""
    needed: int = 0
    """The number of bytes that are needed."""


class NoDescriptors(Error, OSError):
    """This process, or the system, has no file descriptors left."""


class TooManyProcesses(Error):
    """The maximum number of processes use the queue."""

    slots: int = 0
    attached: int = 0


class SystemRefused(Error, OSError):
    """The system refused something else."""


class PoolEnded(Error, BrokenProcessPool):
    """The pool ended: its workers could not start, or were killed."""


class WorkerDied(Error, BrokenProcessPool):
    """The worker that ran the function died. The pool continues."""

    signal: int | None = None
    """The signal that ended the worker; `None` if it exited by itself."""
    attempts: int = 0
    """The number of workers that had the function."""


class NotUnpickled(Error, BrokenProcessPool):
    """The function's arguments, or its result, could not be unpickled. The pool continues."""


class JobTimedOut(Error, TimeoutError):
    """The function took longer than the pool's `job_timeout`. Its worker was killed."""
