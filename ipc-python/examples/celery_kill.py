"""Celery without a broker process; its worker is killed in the middle: no task is lost.

python celery_kill.py
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from celery import Celery

import ipc_queue.celery  # tasks are acknowledged when they are done

NAME = os.environ.setdefault("EXAMPLE_NAMESPACE", f"celery-{os.getpid()}")
FOLDER = Path(os.environ.setdefault("EXAMPLE_FOLDER", tempfile.gettempdir()))

app = Celery("celery_kill", broker=f"ipc://{NAME}")


@app.task(name="work")
def work(n: int) -> None:
    if n == 5 and not (FOLDER / "died").exists():
        (FOLDER / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (FOLDER / f"done-{n}").touch()


def worker() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "celery_kill", "worker", "--pool", "solo"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "error"]
    environment = {**os.environ, "EXAMPLE_FOLDER": str(FOLDER)}
    return subprocess.Popen(command, cwd=Path(__file__).parent, env=environment)


def main() -> None:
    global FOLDER
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = Path(folder)
        for n in range(20):
            work.delay(n)
        queue = ipc_queue.Queue(f"shm:{NAME}/celery")
        print("the first worker ended with", worker().wait())
        second = worker()
        queue.drain(60)  # until every task is acknowledged
        second.terminate()
        second.wait()
        done = len(list(FOLDER.glob("done-*")))
        print(f"{done} of 20 tasks are done")
        ipc_queue.remove(queue.address)
        assert done == 20


if __name__ == "__main__":
    main()
