"""Shared by all tests: private folders, and a check for leaks after each test."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import suites

# Private folders, so that files of other programs are not taken for ours.
SHM = Path(tempfile.mkdtemp(prefix="ipc-python-test-", dir="/dev/shm"))
os.environ["IPC_SHM_DIR"] = str(SHM)
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="ipc-python-test-")

# The first handler runs last: after those of multiprocessing.
for folder in (str(SHM), os.environ["TMPDIR"]):
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

import ipc_queue as ipc  # noqa: E402

# Threads of the extension that live as long as the process.
_LASTING = ("ipc-watch", "ipc-nats")


def _files() -> set[str]:
    # A queue of `ipc_queue.mp` that was given to another process stays until its creator exits; a
    # test in test_mp.py checks that.
    ours = f"/py-{os.getpid()}-"
    found = {str(path) for path in SHM.rglob("*") if path.is_file()}
    return {path for path in found if ours not in path}


def _descriptors() -> set[str]:
    """Return what the open descriptors refer to, except those of pytest and of the watcher."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
        except OSError:
            continue
    return {name for name in found if "ipc." in name or "memfd" in name}


def _threads() -> set[str]:
    names = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:
            continue
        if name.startswith("ipc-") and name not in _LASTING:
            names.add(f"{name} {task.name}")
    names.update(thread.name for thread in threading.enumerate())
    return names


def _folders() -> set[str]:
    return {str(path) for path in Path(tempfile.gettempdir()).glob("ipc-queue-pool-*")}


def _state() -> dict[str, set[str]]:
    return {
        "files in shared memory": _files(),
        "descriptors": _descriptors(),
        "threads": _threads(),
        "folders of pools": _folders(),
    }


# How long a test may take, in seconds, unless its mark `limit` says otherwise. It measures nothing:
# it ends tests that would never end.
LIMIT = 150
# How long each further step may take after that, such as the test's teardown.
FURTHER = 20


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that takes too long, with its name, and continue with the next."""
    mark = item.get_closest_marker("limit")
    limit = LIMIT if mark is None else mark.args[0]

    def too_long(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"{item.nodeid} takes longer than {limit} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, limit, FURTHER)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests with suites last: they take longest."""
    items.sort(key=lambda item: item.get_closest_marker("suite") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the suites."""
    if not session.config.option.collectonly:
        suites.start(session.items)


def pytest_sessionfinish() -> None:
    """Write the table in the README, if requested."""
    if "IPC_WRITE_DOCS" in os.environ:
        suites.write_table(Path(__file__).parent.parent / "README.md")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """Note whether a test failed: its traceback keeps what it had open."""
    report = yield
    if report.failed:
        item.user_properties.append(("failed", True))
    return report


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind."""
    gc.collect()
    before = _state()
    yield
    if ("failed", True) in request.node.user_properties:
        return
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        left = {what: found - before[what] for what, found in _state().items()}
        left = {what: found for what, found in left.items() if found}
        # Threads and processes that are ending need a moment.
        if not left or time.monotonic() > deadline:
            break
        threading.Event().wait(0.02)
    assert not left, f"left behind: {left}"


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a queue that is removed after the test."""
    name = f"shm:test-{os.getpid()}/{uuid.uuid4().hex[:12]}"
    yield name
    ipc.remove(name)


# Ctrl-C as a terminal has it: whatever started the tests may ignore it.
CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"

# Time in seconds after which something counts as stuck.
PATIENCE = 120


class Child:
    """A Python program in a process of its own."""

    def __init__(self, program: str, *arguments: str, executable: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [executable, "-c", CTRL_C + textwrap.dedent(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        limit = threading.Timer(PATIENCE, self.process.kill)
        limit.start()
        line = self.process.stdout.readline()
        limit.cancel()
        limit.join()
        if not line:
            _, errors = self.process.communicate(timeout=60)
            raise AssertionError(f"the child said nothing and ended: {errors}")
        return line.strip()

    def tell(self, line: str = "") -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> str:
        """Wait for its end. Return the rest of its output."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, errors
        return out


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts Python programs that are killed after the test, if they still run."""
    started: list[Child] = []

    def start(program: str, *arguments: str) -> Child:
        started.append(Child(program, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()
        for stream in (one.process.stdin, one.process.stdout, one.process.stderr):
            if stream is not None:
                stream.close()
