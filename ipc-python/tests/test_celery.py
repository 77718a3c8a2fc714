"""The kombu transport, and Celery on it: without a broker process, with workers that are killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import uuid

import pytest

kombu = pytest.importorskip("kombu")

import ipc_queue.celery  # noqa: E402
from ipc_queue import _ipc  # noqa: E402


@pytest.fixture
def namespace():
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    for queue in _ipc.queues(name):
        ipc_queue.remove(f"shm:{name}/{queue}")


@pytest.fixture
def connection(namespace):
    with kombu.Connection(f"ipc://{namespace}") as connection:
        yield connection


def test_messages_arrive_once_and_in_order(connection, namespace):
    queue = connection.SimpleQueue("jobs")
    for n in range(10):
        queue.put({"n": n})
    assert queue.qsize() == 10
    for n in range(10):
        message = queue.get(timeout=10)
        assert message.payload == {"n": n}
        message.ack()
    with pytest.raises(queue.Empty):
        queue.get(block=False)
    assert ipc_queue.Queue(f"shm:{namespace}/jobs").stats().unsettled == 0
    queue.close()


def test_a_rejected_message_is_a_dead_letter_and_a_requeued_one_is_redelivered(
    connection, namespace
):
    queue = connection.SimpleQueue("jobs")
    queue.put("a")
    queue.get(timeout=10).requeue()
    queue.get(timeout=10).reject()
    with pytest.raises(queue.Empty):
        queue.get(block=False)
    letters = ipc_queue.Queue(f"shm:{namespace}/jobs").dead_letters()
    assert [letter.error for letter in letters] == ["rejected"]
    queue.close()


def test_messages_of_a_closed_connection_go_to_another(connection, namespace):
    queue = connection.SimpleQueue("jobs")
    queue.put("a")
    with kombu.Connection(f"ipc://{namespace}") as other:
        assert other.SimpleQueue("jobs").get(timeout=10).payload == "a"
    assert queue.get(timeout=10).payload == "a"
    queue.close()


def test_consumers_wait_without_polling_and_time_out(connection):
    seen = []
    queue = kombu.Queue("jobs", kombu.Exchange("jobs"), "jobs")
    with connection.Consumer(queue, callbacks=[lambda body, m: (seen.append(body), m.ack())]):
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.01)
        with connection.Producer() as producer:
            producer.publish({"n": 1}, exchange="jobs", routing_key="jobs", declare=[queue])
        connection.drain_events(timeout=10)
    assert seen == [{"n": 1}]


def test_unacknowledged_consumers_and_purge(connection):
    queue = connection.SimpleQueue("jobs", no_ack=True)
    queue.put(1)
    assert queue.get(timeout=10).payload == 1
    queue.put(2)
    assert queue.clear() == 1
    queue.close()


def test_celery_acknowledges_late_unless_configured_otherwise(namespace):
    celery = pytest.importorskip("celery")

    def work(n):
        return n

    def settings(**own):
        broker = own.pop("broker", f"ipc://{namespace}")
        app = celery.Celery("shop", broker=broker, set_as_current=False)
        app.conf.update(own)
        task = app.task(name="work")(work)
        # A worker does this.
        app.finalize()
        return task.acks_late, task.reject_on_worker_lost, app.conf.worker_prefetch_multiplier

    assert settings() == (True, True, 1)
    assert settings(task_acks_late=False) == (False, True, 1)
    assert settings(broker="memory://") == (False, None, 4)
    app = celery.Celery("other", broker="memory://", set_as_current=False)
    ipc_queue.celery.configure(app)
    assert app.conf.task_acks_late is True


def test_a_killed_celery_worker_loses_no_task(namespace, tmp_path):
    pytest.importorskip("celery")
    module = tmp_path / "shop.py"
    module.write_text(
        textwrap.dedent(
            f"""
            import os, signal
            from pathlib import Path
            from celery import Celery
            import ipc_queue.celery

            app = Celery("shop", broker="ipc://{namespace}")
            folder = Path({str(tmp_path)!r})

            @app.task
            def work(n):
                if n == 3:
                    try:
                        (folder / "died").touch(exist_ok=False)
                    except FileExistsError:
                        pass
                    else:
                        os.kill(os.getpid(), signal.SIGKILL)
                (folder / f"done-{{n}}").touch()
            """
        )
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{os.path.dirname(os.path.dirname(ipc_queue.__file__))}",
    }
    producer = "import shop; [shop.work.delay(n) for n in range(10)]"
    subprocess.run([sys.executable, "-c", producer], env=environment, check=True, timeout=60)
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool", "solo"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "error"]
    queue = ipc_queue.Queue(f"shm:{namespace}/celery")
    assert queue.qsize() == 10
    # The first worker is killed by task 3, and a second one does the rest.
    first = subprocess.Popen(command, env=environment, cwd=tmp_path)
    assert first.wait(60) == -9
    assert queue.stats().unsettled > 0
    second = subprocess.Popen(command, env=environment, cwd=tmp_path)
    try:
        while queue.stats().unsettled:
            assert second.poll() is None
            os.sched_yield()
        assert {path.name for path in tmp_path.glob("done-*")} == {f"done-{n}" for n in range(10)}
    finally:
        second.terminate()
        second.wait(60)
