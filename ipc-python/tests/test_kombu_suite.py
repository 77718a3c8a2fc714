"""kombu's own integration tests, from its source distribution, on our transport.

They are not in kombu's wheel. `cargo xtask python` downloads the source; without it they are
skipped, and counted.
"""

from __future__ import annotations

import glob
import importlib.util
import uuid
from pathlib import Path

import pytest

kombu = pytest.importorskip("kombu")

import ipc_queue.celery  # noqa: E402
from ipc_queue import _ipc  # noqa: E402

SOURCE = Path(__file__).parent.parent.parent / "target/python/sources"
FOUND = sorted(glob.glob(str(SOURCE / "kombu-*/t/integration/common.py")))

if not FOUND:
    pytest.skip("kombu's source is not there", allow_module_level=True)

_spec = importlib.util.spec_from_file_location("kombu_common", FOUND[-1])
assert _spec is not None and _spec.loader is not None
suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(suite)


@pytest.fixture
def connection():
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    yield kombu.Connection(f"ipc://{namespace}")
    for queue in _ipc.queues(namespace):
        ipc_queue.remove(f"shm:{namespace}/{queue}")


class TestBasicFunctionality(suite.BasicFunctionality):  # type: ignore[misc]
    # A connection can't fail to reach a broker, because there is none.
    test_failed_connect = None
    test_failed_connection = None
    test_failed_channel = None
    test_failed_default_channel = None


class TestExchangeTypes(suite.BaseExchangeTypes):  # type: ignore[misc]
    # Broadcasts need a broker.
    test_fanout = None


class TestMessage(suite.BaseMessage):  # type: ignore[misc]
    pass
