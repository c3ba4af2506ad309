"""Workers that are dead or stuck are replaced."""

from collections.abc import Callable

import httpx
import pytest

from tests.support.service import AVAILABLE, ApiProcess, workers
from tests.support.waiting import DEADLINE_S, wait_for


@pytest.mark.slow
def test_stuck_worker_is_replaced(sample_url: str, start_api: Callable[..., ApiProcess]) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1', API_WORKER_TIMEOUT_S='5')
    assert api.get(AVAILABLE).status_code == 200
    [stuck] = workers(api)
    stuck.suspend()
    wait_for(lambda: f'WORKER TIMEOUT (pid:{stuck.pid})' in api.output())
    wait_for(lambda: [worker for worker in workers(api) if worker != stuck])
    assert httpx.get(api.url + AVAILABLE, timeout=DEADLINE_S).status_code == 200
