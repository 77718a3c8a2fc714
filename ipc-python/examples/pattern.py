"""A coordinator hands 100 tasks to 4 workers. `--kill` kills one of them: nothing is lost."""

import os
import subprocess
import sys
import time

import ipc_queue as ipc

NAME = sys.argv[2] if sys.argv[1:2] == ["worker"] else f"pattern-{os.getpid()}"
tasks = ipc.Queue(f"shm:{NAME}/tasks", codec="json")
results = ipc.Queue(f"shm:{NAME}/results", codec="json")


def work(number):
    with ipc.Node(f"worker-{number}", namespace=NAME, interval=0.5):  # heartbeats
        for task in tasks:  # ends when the queue is closed and everything in it is done
            with task:  # acknowledged at the end: a dead worker's task comes to another
                results.put((task.data, task.data**2))


def coordinate():
    command = [sys.executable, __file__, "worker", NAME]
    workers = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    while [node.health for node in ipc.nodes(NAME)].count("alive") < 4:
        time.sleep(0.01)
    tasks.put_many(range(100))
    squares = {}
    while len(squares) < 100:  # a task that was done again answers again
        squares.update([results.take()])
        if len(squares) == 20 and "--kill" in sys.argv:
            workers[0].kill()
    print({node.name: node.health for node in ipc.nodes(NAME)})
    tasks.close()  # the shutdown
    codes = [worker.wait() for worker in workers]
    print(f"{len(squares)} results, sum {sum(squares.values())}, exit codes {codes}")
    print(tasks.remove(), results.remove(), ipc.remove_nodes(NAME))


work(sys.argv[3]) if sys.argv[1:2] == ["worker"] else coordinate()
