"""A request can be followed: X-Request-ID, Server-Timing and the access log."""

import json
import logging
import re
from collections.abc import Callable
from contextlib import closing

import pytest
from api.database.sessions import Sessions

from api.config import Settings
from api.telemetry.log import (
    RENDERERS,
    Debounce,
    LineFormatter,
    answer_to_logfmt,
    to_logfmt,
)
from api.telemetry.metrics import Metrics
from tests.support import DEADLINE_S, ApiProcess, Rows, settled_output, until, wait_for

TOP = '/venues/top-benefits'
AVAILABLE = '/venues/1/available-benefits'


def access_line(api: ApiProcess, request_id: str) -> str:
    """Return the access log line of a request."""
    for _ in until():
        lines = [line for line in api.output().splitlines() if f'request_id={request_id} ' in line]
        if any('event=request' in line for line in lines):
            [line] = [line for line in lines if 'event=request' in line]
            return line
    raise AssertionError(api.output()[-2000:])


@pytest.mark.parametrize('sane', ['a', 'checkout-7f3a', 'A.b_c~d:e/f+g=h@i-0', 'x' * 64])
def test_sane_request_id_is_kept(api: ApiProcess, sane: str) -> None:
    answer = api.get('/live', headers={'X-Request-ID': sane})
    assert answer.headers['x-request-id'] == sane


@pytest.mark.parametrize(
    'wrong', ['', 'x' * 65, 'a b', 'a"b', 'a\tb', 'a;b', 'a\\nb', 'é', '<b>', 'a,b', '%0d%0a']
)
def test_other_request_id_is_replaced(api: ApiProcess, wrong: str) -> None:
    answer = api.get('/live', headers={b'X-Request-ID': wrong.encode()})
    assert re.fullmatch('[0-9a-f]{32}', answer.headers['x-request-id'])


def test_every_request_gets_an_id_of_its_own(api: ApiProcess) -> None:
    ids = {api.get('/live').headers['x-request-id'] for _ in range(50)}
    assert len(ids) == 50


@pytest.mark.parametrize('path', ['/nowhere', '/venues/x/inactivity-periods', AVAILABLE])
def test_problem_carries_the_request_id(api: ApiProcess, path: str) -> None:
    answer = api.get(path, headers={'X-Request-ID': 'problem-1'})
    assert answer.json()['requestId'] == 'problem-1'
    assert answer.headers['x-request-id'] == 'problem-1'


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
    assert fields['method'] == 'GET'
    assert fields['route'] == '/venues/{venueId}/available-benefits'
    assert fields['status'] == '200'
    assert fields['bytes'] == str(len(answer.content))
    assert float(fields['total_ms']) >= float(fields['database_ms']) > 0
    assert float(fields['pool_ms']) >= 0
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
        # a method that falcon refuses before it asks any middleware
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


def test_answer_that_a_client_has_already_is_logged_without_its_bytes(api: ApiProcess) -> None:
    path = f'{TOP}?timestamp=2024-07-01'
    known = api.get(path).headers['etag']
    headers = {'If-None-Match': known, 'X-Request-ID': 'unchanged-1'}
    assert api.get(path, headers=headers).status_code == 304
    line = access_line(api, 'unchanged-1')
    assert ' status=304 ' in line
    assert ' bytes=0 ' in line


def test_same_warning_is_written_once_in_a_while_and_every_error() -> None:
    debounce = Debounce()

    def written(level: int, message: str, at_s: float) -> dict[str, object] | None:
        record = logging.makeLogRecord({'levelno': level, 'msg': message, 'created': at_s})
        return record.__dict__ if debounce.filter(record) else None

    for at_s in (100.0, 100.0, 101.0):
        assert written(logging.ERROR, 'broken', at_s)
    assert 'held_back' not in written(logging.WARNING, 'slow', 100.0)
    assert written(logging.WARNING, 'slow', 101.0) is None
    assert 'held_back' not in written(logging.WARNING, 'other', 101.0)
    assert written(logging.WARNING, 'slow', 109.9) is None
    assert written(logging.WARNING, 'slow', 110.1)['held_back'] == 2
    assert written(logging.WARNING, 'slow', 119.9) is None
    assert written(logging.WARNING, 'slow', 120.2)['held_back'] == 1
    assert 'held_back' not in written(logging.WARNING, 'slow', 140.0)


def test_json_lines(start_api: Callable[..., ApiProcess], sample_url: str) -> None:
    api = start_api(DATABASE_URL=sample_url, API_LOG_FORMAT='json')
    api.get(TOP, headers={'X-Request-ID': 'json-1'})
    found = wait_for(
        lambda: [json.loads(line) for line in api.output().splitlines() if 'json-1' in line]
    )
    assert found[0]['route'] == TOP
    assert found[0]['status'] == 200
    assert found[0]['level'] == 'info'
    for line in api.output().splitlines():
        json.loads(line)


def test_log_level_silences_the_access_log(
    start_api: Callable[..., ApiProcess], sample_url: str, unused_port: int
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_LOG_LEVEL='warning', API_PORT=str(unused_port))
    assert api.get(TOP).status_code == 200
    api.stop()
    assert 'event=request' not in api.output()


def test_what_a_thread_does_after_an_answer_is_not_for_its_request(sample_url: str) -> None:
    import falcon.testing  # noqa: PLC0415

    from api.app import create_app  # noqa: PLC0415

    settings = Settings(database_url=sample_url, pool_timeout_s=DEADLINE_S)
    with closing(Sessions(settings, Metrics())) as sessions:
        client = falcon.testing.TestClient(create_app(settings, sessions=sessions))
        for path in ('/live', '/nowhere', AVAILABLE):
            client.simulate_get(path, headers={'X-Request-ID': 'answered-1'})
            later = logging.makeLogRecord({'msg': 'later'})
            line = LineFormatter(RENDERERS['logfmt']).format(later)
            assert 'event=later' in line
            assert 'answered-1' not in line


@pytest.mark.parametrize(
    ('value', 'written'),
    [
        ('plain', 'plain'),
        (0.5, '0.5'),
        ('two words', '"two words"'),
        ('a=b', '"a=b"'),
        ('a "b"', r'"a \"b\""'),
        ('C:\\temp', 'C:\\temp'),
        ('C:\\my temp', r'"C:\\my temp"'),
        ('one\ntwo', r'one\ntwo'),
        ('', ''),
        (None, ''),
    ],
)
def test_logfmt_quotes_what_would_be_misread(value: object, written: str) -> None:
    record = logging.makeLogRecord({'msg': 'it', 'levelname': 'INFO', 'value': value})
    line = LineFormatter(RENDERERS['logfmt']).format(record)
    assert re.fullmatch(r'timestamp=\S+Z level=info event=it value=(.*)', line)[1] == written


@pytest.mark.parametrize('problem', [{}, {'problem': 'overloaded'}])
def test_line_of_an_answer_is_that_of_every_other_line(problem: dict[str, str]) -> None:
    fields = {
        'timestamp': '2026-01-01T00:00:00.000001Z',
        'level': 'info',
        'event': 'request',
        'request_id': 'a=b',
        'method': 'A"B',
        'route': '/venues/{venueId}/available-benefits',
        'status': 200,
        'bytes': 0,
        'total_ms': 1.0,
        'pool_ms': 0.125,
        'database_ms': 1e-07,
        **problem,
    }
    assert answer_to_logfmt(fields) == to_logfmt(fields)


def test_traceback_is_one_line(sample_url: str) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as ex:
        record = logging.makeLogRecord({'msg': 'it', 'exc_info': (type(ex), ex, ex.__traceback__)})
    in_json = json.loads(LineFormatter(RENDERERS['json']).format(record))
    assert in_json['exception'].startswith('Traceback (most recent call last):\n  File ')
    assert in_json['exception'].endswith('\nZeroDivisionError: division by zero')
    in_logfmt = LineFormatter(RENDERERS['logfmt']).format(record)
    assert in_logfmt.endswith(r'\nZeroDivisionError: division by zero"')


def test_unexpected_failure_is_logged_once_under_the_id_that_the_client_sees(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url)
    rows.connection.execute('drop table benefit_usage')
    answer = api.get(TOP, headers={'X-Request-ID': 'fails-1'})
    assert answer.status_code == 500
    assert answer.json()['requestId'] == 'fails-1'
    access_line(api, 'fails-1')  # the last of the request's
    errors = [line for line in api.output().splitlines() if 'level=error' in line]
    assert len(errors) == 1
    assert 'request_id=fails-1' in errors[0]
