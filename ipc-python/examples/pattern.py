"""A coordinator hands 100 tasks to 4 workers and collects the results.

python pattern.py          # heartbeats, results, shutdown
python pattern.py --kill   # the same, with a worker killed in the middle: nothing is lost
"""

import os
import subprocess
import sys
import time

import ipc_queue as ipc

NAME = sys.argv[2] if sys.argv[1:2] == ["worker"] else f"pattern-{os.getpid()}"
tasks = ipc.Queue(f"shm:{NAME}/tasks", codec="json")
results = ipc.Queue(f"shm:{NAME}/results", codec="json")


def worker(number: str) -> None:
    with ipc.Node(f"worker-{number}", namespace=NAME, interval=0.5):
        for task in tasks:  # ends when the coordinator has closed the queue and all is settled
            with task:  # acknowledged at the end, so a task is done by a worker that lived
                results.put({"n": task.data, "square": task.data**2, "worker": number})


def coordinate() -> None:
    command = [sys.executable, __file__, "worker", NAME]
    workers = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    while [node.health for node in ipc.nodes(NAME)].count("alive") < 4:
        time.sleep(0.01)
    tasks.put_many(range(100))
    squares = {}
    while len(squares) < 100:  # a task that was redone answers twice: the last one counts
        answer = results.take()
        squares[answer["n"]] = answer["square"]
        if len(squares) == 20 and "--kill" in sys.argv:
            workers[0].kill()
    print({node.name: node.health for node in ipc.nodes(NAME)})
    tasks.close()
    codes = [one.wait() for one in workers]
    print(f"{len(squares)} results, sum {sum(squares.values())}, exit codes {codes}")
    tasks_lost = tasks.stats().unsettled
    for queue in (tasks, results):
        ipc.remove(queue.address)
    ipc.remove_nodes(NAME)
    assert not tasks_lost and squares == {n: n * n for n in range(100)}


if __name__ == "__main__":
    worker(sys.argv[3]) if sys.argv[1:2] == ["worker"] else coordinate()
