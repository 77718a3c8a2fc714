"""A worker process of the executor.

Started as a new program, never as a fork. Prepares `__main__` as `multiprocessing.spawn` does, runs
the initializer, then calls until the pool ends. Ends like any Python program: `atexit` handlers run
and buffers are flushed.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import traceback
from concurrent.futures.process import _RemoteTraceback as RemoteTraceback
from pathlib import Path
from typing import Any

from . import _ipc
from .errors import NotUnpickled

# Arguments and results larger than this travel in files of the pool's folder.
SPILL_FROM = 64 << 10
_INLINE, _SPILLED = b"\0", b"\1"


class RemoteError:
    """An exception on its way to the executor, with its traceback as text."""

    def __init__(self, error: BaseException) -> None:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        self.error = error
        self.text = f'\n"""\n{"".join(lines)}"""'
        # The frames are not sent, and would keep their variables alive in this process.
        error.__traceback__ = None

    def __reduce__(self) -> Any:
        return _with_cause, (self.error, self.text)


def _with_cause(error: BaseException, text: str) -> BaseException:
    error.__cause__ = RemoteTraceback(text)  # type: ignore[arg-type]
    return error


def pack(folder: Path, value: Any) -> tuple[bytes, str | None]:
    """Pickle a value. Return its bytes, or those of the name of a file that has them."""
    try:
        body = pickle.dumps(value, 5)
    except Exception:
        # Objects that only multiprocessing can send, such as connections; this takes longer.
        from multiprocessing.reduction import ForkingPickler

        body = bytes(ForkingPickler.dumps(value, 5))
    if len(body) <= SPILL_FROM:
        return _INLINE + body, None
    name = os.urandom(12).hex()
    (folder / name).write_bytes(body)
    return _SPILLED + name.encode(), name


def unpack(folder: Path, message: bytes, *, remove: bool = False) -> Any:
    """Return the value that `pack` turned into these bytes."""
    body: bytes | memoryview = memoryview(message)[1:]
    if message[:1] == _SPILLED:
        path = folder / bytes(body).decode()
        body = path.read_bytes()
        if remove:
            path.unlink(missing_ok=True)
    try:
        return pickle.loads(body)
    except BaseException as error:
        # Whatever the object's classes do while unpickling must not end this process.
        raise NotUnpickled(f"{type(error).__name__}: {error}") from error


def main() -> None:
    """Work for the pool whose folder is the last argument."""
    from multiprocessing import spawn

    folder = Path(sys.argv[-1])
    start = pickle.loads((folder / "start").read_bytes())
    spawn.prepare(start["preparation"])
    initializer, arguments = pickle.loads(start["initializer"])
    if initializer is not None:
        try:
            initializer(*arguments)
        except BaseException:
            logging.getLogger("concurrent.futures").critical(
                "Exception in initializer:", exc_info=True
            )
            # The executor passes this on to the callers.
            traceback.print_exc()
            sys.exit(1)

    def call(message: bytes, _attempt: int) -> bytes:
        try:
            function, args, kwargs = unpack(folder, message)
            outcome = (True, function(*args, **kwargs))
        except BaseException as error:
            outcome = (False, RemoteError(error))
        try:
            return pack(folder, outcome)[0]
        except BaseException as error:
            # The result can't be pickled; answer with that error.
            return pack(folder, (False, RemoteError(error)))[0]

    code = _ipc.work(call)
    if code is None:
        sys.exit("this program is started by an executor of ipc_queue, not by hand")
    sys.exit(code)
