"""Other projects' test suites, each in its own processes.

A test with the mark `suite` names the command of one. It is started before the first
test, since such suites mostly sleep. The test itself runs last and checks the outcome.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# In seconds, for a whole suite.
PATIENCE = 280


class Suite:
    """A running suite."""

    def __init__(self, command: list[str]) -> None:
        """Start a program with its first argument, the path of its report, and other arguments."""
        # Private folders, so that its files are not taken for leaks of another test.
        folders = ("/dev/shm", "/tmp")
        prefix = "ipc-python-suite-"
        self._places = [tempfile.mkdtemp(prefix=prefix, dir=folder) for folder in folders]
        self._report = Path(self._places[1]) / "report"
        # Imported only after the tests' private folders are set.
        import ipc_queue

        package = str(Path(ipc_queue.__file__).parent.parent)
        environment = {
            **os.environ,
            "PYTHONPATH": package,
            "IPC_SHM_DIR": self._places[0],
            "TMPDIR": self._places[1],
        }
        with open(self._report.with_suffix(".log"), "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command[:2], str(self._report), *command[2:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        atexit.register(self.end)

    def outcomes(self) -> dict[str, str]:
        """Wait for its end. Return the outcome of each test, by name."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it took longer than {PATIENCE} s:\n{self.log()}") from None
        if not self._report.exists():
            raise AssertionError(f"it ended without a report:\n{self.log()}")
        return json.loads(self._report.read_text())  # type: ignore[no-any-return]

    def log(self) -> str:
        """Return the last part of its output."""
        text = self._report.with_suffix(".log").read_text(errors="replace")
        return text[-20_000:]

    def end(self) -> None:
        """Kill what is left of it, and remove its folders."""
        atexit.unregister(self.end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for place in self._places:
            shutil.rmtree(place, ignore_errors=True)


_running: dict[str, Suite] = {}


def start(items: list[Any]) -> None:
    """Start the suites of these tests."""
    for item in items:
        for mark in item.iter_markers("suite"):
            started(list(mark.args))


def started(command: list[str]) -> Suite:
    """Return the suite of a command: the running one, or a new one."""
    name = " ".join(command)
    if name not in _running:
        _running[name] = Suite(command)
    return _running[name]


_rows: list[str] = []
_reasons: dict[str, str] = {}


def note(name: str, outcomes: dict[str, str], differ: dict[str, str]) -> None:
    """Note the outcome of a suite, for the table in the README."""
    skipped = sum(outcome.startswith("skipped") for outcome in outcomes.values())
    passed = len(outcomes) - skipped - len(differ)
    _rows.append(f"| {name} | {len(outcomes) - skipped} | {passed} | {skipped} |")
    _reasons.update((test.rpartition(".")[2], reason) for test, reason in differ.items())


def write_table(path: Path) -> None:
    """Write the table of the suites into a file, between its marks."""
    text = path.read_text()
    before, start, rest = text.partition("<!-- suites -->\n")
    _, end, after = rest.partition("<!-- /suites -->")
    assert start and end, f"{path} has no place for the table"
    version = ".".join(map(str, sys.version_info[:3]))
    lines = [f"| suite (CPython {version}) | tests | pass | skipped |", "|---|---:|---:|---:|"]
    lines += [*_rows, "", "Those that do not pass differ as intended:", ""]
    lines += [f"- `{test}`: {reason}." for test, reason in sorted(_reasons.items())]
    path.write_text(before + start + "\n".join(lines) + "\n" + end + after)
