"""Slow reports and too many requests: who has to wait, for how long, and who does not."""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.faults.load import Load, failures
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import ApiProcess, metric
from tests.support.waiting import DEADLINE_S, wait_for

TOP = '/venues/top-benefits'
AVAILABLE = '/venues/1/available-benefits?personId=1'
INACTIVITY = '/venues/1/inactivity-periods'


def kinds(answers: list[httpx.Response]) -> list[str]:
    return [answer.json()['type'].rsplit('/', 1)[1] for answer in answers]


@pytest.mark.slow
def test_full_pool_is_503_after_a_bounded_wait_and_then_at_once(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.people(2, 3, 4)
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='1',
        API_POOL_MAX_WAITING='3',
        API_POOL_TIMEOUT_S='20',
        API_STATEMENT_TIMEOUT_S=str(2 * DEADLINE_S),
    )
    with ThreadPoolExecutor(2) as clients, locked_uses(database_url):
        running = clients.submit(httpx.get, api.url + AVAILABLE, timeout=DEADLINE_S)
        wait_until_busy(rows)
        path = '/venues/1/available-benefits?personId={}'
        waiting = clients.submit(httpx.get, api.url + path.format(2), timeout=DEADLINE_S)
        wait_for(lambda: metric(api, 'requests_waiting') == 1)
        refused = api.get(path.format(3))
        assert not waiting.done()
        # whoever needs no connection is answered
        assert api.get('/live').status_code == 200
        assert api.get('/venues/x/inactivity-periods').status_code == 400
        waited = waiting.result()
        assert not running.done()
    assert running.result().status_code == 200
    for answer in (refused, waited):
        assert answer.status_code == 503
        assert int(answer.headers['retry-after']) >= 1
        assert kinds([answer]) == ['overloaded']
    assert metric(api, 'http_problems_total{kind="overloaded"}') == 2
    wait_for(lambda: 'problem=overloaded' in api.output())
    assert httpx.get(api.url + INACTIVITY, timeout=DEADLINE_S).status_code == 200


@pytest.mark.slow
def test_crowd_at_the_slow_report_does_not_starve_the_others(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.connection.execute('alter table benefit rename to quick')
    rows.connection.execute(
        'create view benefit as select quick.* from quick, pg_sleep('
        " case when current_query() like '-- name: top_benefits%' then 0.2 else 0 end)"
    )
    moment = datetime.now(UTC)

    def identical(_: int) -> str:
        return TOP

    def different(number: int) -> str:
        return f'{TOP}?timestamp={moment + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S}'

    def ask(api: ApiProcess, crowd_path: Callable[[int], str], number: int) -> float:
        """Return the median time of the quick report beside a crowd at the slow one."""
        with Load(api.url, crowd_path, clients=50) as crowd:
            crowd.wait_for(1)
            with Load(api.url, available, clients=2) as few:
                few.wait_for(number)
        assert {asked.status for asked in crowd.asked} <= {200, 503}
        assert failures(few.asked) == []
        return statistics.median(asked.seconds for asked in few.asked)

    settings = {'DATABASE_URL': database_url, 'API_WORKERS': '2', 'API_POOL_SIZE': '2'}
    api = start_api(**settings)
    for path in (identical, different):
        # without a wait for the crowd, whose every query takes 0.2 s
        assert ask(api, path, 100) < 0.2


def available(number: int) -> str:
    return f'{AVAILABLE}&timestamp=2024-07-01T{number % 24:02}:00'
