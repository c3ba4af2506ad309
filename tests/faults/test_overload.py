"""More requests than connections: some wait for a limited time, and the others are rejected."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx

from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import AVAILABLE, ApiProcess, metric
from tests.support.waiting import DEADLINE_S, wait_for


def test_full_pool_is_503_after_a_bounded_wait_and_then_at_once(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.people(2, 3, 4)
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='1',
        API_POOL_MAX_WAITING='1',
        API_POOL_TIMEOUT_S='3',
        API_STATEMENT_TIMEOUT_S=str(2 * DEADLINE_S),
    )
    with ThreadPoolExecutor() as clients, locked_uses(database_url):
        running = clients.submit(httpx.get, api.url + AVAILABLE, timeout=DEADLINE_S)
        wait_until_busy(rows)
        path = '/venues/1/available-benefits?personId={}'
        asked = [clients.submit(api.get, path.format(person)) for person in (2, 3)]
        [first], [waiting] = wait(asked, DEADLINE_S, FIRST_COMPLETED)
        refused = first.result()
        assert api.get('/ready').status_code == 200  # a busy service is ready
        # a request that needs no connection gets a response
        assert api.get('/live').status_code == 200
        assert api.get('/venues/x/inactivity-periods').status_code == 400
        waited = waiting.result()
        assert not running.done()
    assert running.result().status_code == 200
    for answer in (refused, waited):
        assert answer.status_code == 503
        assert int(answer.headers['retry-after']) >= 1
        assert answer.json()['type'] == '/docs/problems/overloaded'
    assert metric(api, 'http_problems_total{kind="overloaded"}') == 2
    wait_for(lambda: 'problem=overloaded' in api.output())
