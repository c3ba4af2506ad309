"""Tracing of requests: X-Request-ID, Server-Timing and the access log."""

import re
from collections.abc import Callable

import falcon.testing
import pytest

from api.app import create_app
from api.config import Settings
from api.telemetry.log import request_id
from tests.support.rows import Rows
from tests.support.service import TOP, ApiProcess, settled_output
from tests.support.waiting import wait_for

AVAILABLE = '/venues/1/available-benefits'


def access_line(api: ApiProcess, id_: str) -> str:
    """Return the access log line of a request."""
    line = rf'^.* event=request request_id={id_} .*$'
    return wait_for(lambda: re.search(line, api.output(), re.MULTILINE))[0]


@pytest.mark.parametrize('sane', ['a', 'checkout-7f3a', 'A.b_c~d:e/f+g=h@i-0', 'x' * 64])
def test_sane_request_id_is_kept(api: ApiProcess, sane: str) -> None:
    answer = api.get('/live', headers={'X-Request-ID': sane})
    assert answer.headers['x-request-id'] == sane


@pytest.mark.parametrize(
    'wrong', ['', 'x' * 65, 'a b', 'a"b', 'a;b', 'a\\nb', 'é', 'a,b', '%0d%0a']
)
def test_other_request_id_is_replaced(api: ApiProcess, wrong: str) -> None:
    answer = api.get('/live', headers={b'X-Request-ID': wrong.encode()})
    assert re.fullmatch('[0-9a-f]{32}', answer.headers['x-request-id'])


def test_every_request_gets_an_id_of_its_own(api: ApiProcess) -> None:
    ids = {api.get('/live').headers['x-request-id'] for _ in range(50)}
    assert len(ids) == 50


def test_server_timing_tells_where_the_time_went(api: ApiProcess) -> None:
    timing = api.get(TOP).headers['server-timing']
    pool, database = re.fullmatch(r'pool;dur=(\d+\.\d+), db;dur=(\d+\.\d+)', timing).groups()
    assert float(pool) > 0
    assert float(database) > 1
    assert 'server-timing' not in api.get('/live').headers
    assert 'server-timing' not in api.get(AVAILABLE).headers


def test_access_log_has_one_line_with_everything_but_who(api: ApiProcess) -> None:
    answer = api.get(
        f'{AVAILABLE}?personId=123&timestamp=2024-07-01', headers={'X-Request-ID': 'log-1'}
    )
    line = access_line(api, 'log-1')
    fields = dict(pair.split('=', 1) for pair in line.split(' '))
    assert (fields['level'], fields['method']) == ('info', 'GET')
    assert fields['route'] == '/venues/{venueId}/available-benefits'
    assert fields['status'] == '200'
    assert fields['bytes'] == str(len(answer.content))
    times = [fields[name] for name in ('total_ms', 'pool_ms', 'database_ms')]
    assert all(re.fullmatch(r'\d+\.\d{1,3}', time) for time in times)
    total, pool, database = map(float, times)
    assert total >= pool + database > database > 0
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z', fields['timestamp'])
    assert 'personId' not in line
    assert '2024-07-01' not in line
    assert settled_output(api).count('request_id=log-1 ') == 1


@pytest.mark.parametrize(
    ('method', 'path', 'status', 'route'),
    [
        ('GET', '/nowhere', 404, '-'),
        ('POST', TOP, 405, TOP),
        ('GET', '/venues/x/inactivity-periods', 400, '/venues/{venueId}/inactivity-periods'),
        ('HEAD', '/live', 200, '/live'),
        # a method that falcon rejects before any middleware runs
        ('WEBSOCKET', TOP, 400, '-'),
    ],
)
def test_every_answer_is_logged(
    api: ApiProcess, method: str, path: str, status: int, route: str
) -> None:
    id_ = f'all-{status}-{method}'
    api.client.request(method, path, headers={'X-Request-ID': id_})
    line = access_line(api, id_)
    assert f'method={method} route={route} status={status} ' in line
    if method == 'HEAD':
        assert 'bytes=0 ' in line


def test_304_is_logged_without_bytes(api: ApiProcess) -> None:
    headers = {'If-None-Match': '*', 'X-Request-ID': 'unchanged-1'}
    assert api.get(TOP, headers=headers).status_code == 304
    assert ' status=304 bytes=0 ' in access_line(api, 'unchanged-1')


def test_what_a_thread_does_after_an_answer_is_not_for_its_request() -> None:
    app = create_app(Settings(database_url='host=/nowhere', pool_timeout_s=0.1))
    client = falcon.testing.TestClient(app)
    for path in ('/live', '/nowhere', AVAILABLE, TOP):
        client.simulate_get(path, headers={'X-Request-ID': 'answered-1'})
        assert request_id.get() is None


def test_failure_of_the_database_is_told_in_the_log_alone(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url)
    rows.connection.execute('drop table benefit_usage')
    answer = api.get(TOP, headers={'X-Request-ID': 'fails-1'})
    assert (answer.status_code, answer.json()['requestId']) == (500, 'fails-1')
    for secret in ('benefit_usage', 'select', 'Traceback', 'psycopg', '/tmp'):
        assert secret not in answer.text
    line = access_line(api, 'fails-1')
    assert ' level=warning ' in line
    cause = 'UndefinedTable: relation \\"benefit_usage\\" does not exist'
    assert line.endswith(f' problem=internal-error cause="{cause}"')
    output = settled_output(api)
    assert output.count('request_id=fails-1') == 1
    for secret in ('select', 'from benefit_usage', 'Traceback', 'postgres'):
        assert secret not in output
