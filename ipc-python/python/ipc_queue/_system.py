"""What the system refuses to Python code, as exceptions of this package."""

from __future__ import annotations

import errno
import os

from .errors import NoDescriptors, NoSpace


def refused(what: str, error: OSError) -> OSError:
    """Return the exception for an error of the system, or that error."""
    code = error.errno
    try:
        # Some modules, such as `tempfile`, hide that there are no descriptors.
        os.close(os.open(os.curdir, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as own:
        code = own.errno
    if code in (errno.EMFILE, errno.ENFILE):
        return NoDescriptors(f"{what}: {error}: close files, or raise the limit (ulimit -n)")
    if code == errno.ENOSPC:
        return NoSpace(f"{what}: {error}")
    return error
