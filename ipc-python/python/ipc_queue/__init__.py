"""Work queues and worker pools between processes that survive `kill -9`.

    import ipc_queue as ipc

    jobs = ipc.Queue("shm:jobs")
    jobs.put({"path": "a.jpg"})
    for job in jobs:
        with job:  # acknowledged at the end, returned to the queue on an exception
            print(job.data)

`ipc_queue.mp` has the queues of `multiprocessing`, and `ipc_queue.ProcessPoolExecutor` is the
executor of `concurrent.futures`; neither hangs nor loses work when a process dies.
"""

from __future__ import annotations

import os as _os

from . import _ipc
from ._ipc import Delivery
from ._queue import DeadLetter, LeaseInfo, Queue, Stats, remove
from .errors import (
    BadAddress,
    BadSettings,
    Closed,
    CodecDiffers,
    Damaged,
    DecodeError,
    DescriptorLost,
    Empty,
    EmptyKey,
    EncodeError,
    Error,
    Exists,
    Forked,
    Full,
    JobTimedOut,
    KeyInUse,
    KeysFull,
    LeaseLost,
    LockTimedOut,
    NoDescriptors,
    NoSpace,
    NotDrained,
    NotFound,
    NotUnpickled,
    PickleRefused,
    PoolEnded,
    Removed,
    SettingsDiffer,
    Settled,
    SystemRefused,
    TooLarge,
    TooManyProcesses,
    Torn,
    Unreachable,
    Unsupported,
    WorkerDied,
)
from .executor import ProcessPoolExecutor
from .shared import Node, NodeInfo, SharedBuffer, nodes, remove_nodes

__version__ = "0.1.0"

__all__ = [
    "BadAddress",
    "BadSettings",
    "Closed",
    "CodecDiffers",
    "Damaged",
    "DeadLetter",
    "DecodeError",
    "Delivery",
    "DescriptorLost",
    "Empty",
    "EmptyKey",
    "EncodeError",
    "Error",
    "Exists",
    "Forked",
    "Full",
    "LeaseInfo",
    "JobTimedOut",
    "KeyInUse",
    "KeysFull",
    "LeaseLost",
    "LockTimedOut",
    "Node",
    "NodeInfo",
    "NoDescriptors",
    "NoSpace",
    "NotDrained",
    "NotFound",
    "NotUnpickled",
    "PickleRefused",
    "PoolEnded",
    "ProcessPoolExecutor",
    "Queue",
    "Removed",
    "Settled",
    "SettingsDiffer",
    "SharedBuffer",
    "Stats",
    "SystemRefused",
    "TooLarge",
    "TooManyProcesses",
    "Torn",
    "Unreachable",
    "Unsupported",
    "WorkerDied",
    "nodes",
    "remove",
    "remove_nodes",
]

_os.register_at_fork(before=_ipc.before_fork, after_in_child=_ipc.after_fork_in_child)
