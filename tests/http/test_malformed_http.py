"""Malformed HTTP always gets a response, and never a 5xx of the service."""

import itertools
import json
import socket
from functools import partial

import pytest

from api.http.problems import problem_of_status
from tests.http import test_fuzz
from tests.support.service import ApiProcess
from tests.support.waiting import DEADLINE_S

exchange = partial(test_fuzz.exchange, filler=b'')
LIVE = b'GET /live HTTP/1.1\r\nHost: a\r\n'


@pytest.mark.parametrize(
    ('request_bytes', 'status'),
    [
        (b'nonsense\r\n\r\n', 400),
        (b'GET /live\r\n\r\n', 200),
        (b'GET  /live  HTTP/1.1\r\nHost: a\r\n\r\n', 400),
        (b'GET /live HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n', 400),
        (b'GET /live HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n', 200),
        (b'GET /live HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n', 400),
        (b'GET /live HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\nX-Evil: b\r\n\r\n', 400),
        (b'GET /live HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\rX-Evil: b\r\n\r\n', 400),
        (LIVE + b'Content-Length: x\r\n\r\n', 400),
        (LIVE + b'Content-Length: 1, 1\r\n\r\n', 400),
        (LIVE + b'Content-Length: ' + b'9' * 5000 + b'\r\n\r\n', 400),
        (LIVE + b'Transfer-Encoding: gzip\r\n\r\n', 501),
        (LIVE + b'Transfer-Encoding: chunked\r\n\r\nzz\r\n', 400),
        (LIVE + b'X-Long: ' + b'x' * 20000 + b'\r\n\r\n', 431),
        (b'GET /' + b'x' * 20000 + b' HTTP/1.1\r\nHost: a\r\n\r\n', 431),
        (LIVE + b'Content-Length: 100000\r\n\r\n' + b'x' * 100000, 413),
        (b'FOO /live HTTP/1.1\r\nHost: a\r\n\r\n', 400),
        (b'TRACE /live HTTP/1.1\r\nHost: a\r\n\r\n', 405),
        (b'GET http://other/live HTTP/1.1\r\nHost: a\r\n\r\n', 200),
        (b'GET http://[/live HTTP/1.1\r\nHost: a\r\n\r\n', 400),
        (b'GET * HTTP/1.1\r\nHost: a\r\n\r\n', 404),
        (b'GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n', 404),
        (b'GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n', 400),
        (b'GET /venues/%C3%28/inactivity-periods HTTP/1.1\r\nHost: a\r\n\r\n', 400),
        (b'GET /venues/1%2F2/inactivity-periods HTTP/1.1\r\nHost: a\r\n\r\n', 404),
        (b'GET /venues/1/inactivity-periods?timestamp=%zz HTTP/1.1\r\nHost: a\r\n\r\n', 400),
        (b'GET /docs/static/../../app.py HTTP/1.1\r\nHost: a\r\n\r\n', 404),
        (b'GET /docs/static/%2e%2e/core.py HTTP/1.1\r\nHost: a\r\n\r\n', 404),
        (b'GET /live HTTP/1.1\r\n\r\n', 400),
        (LIVE + b'Host: b\r\n\r\n', 400),
        (LIVE + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400),
        (b'GET /live HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 400),
        # accepted by waitress, see SECURITY.md
        (LIVE + b'X_Request-ID: a\r\n\r\n', 200),
        (b'GET /live HTTP/7.0\r\n\r\n', 200),
        (b'GET %2Flive HTTP/1.1\r\nHost: a\r\n\r\n', 200),
        (LIVE + b'Upgrade: h2c\r\nConnection: upgrade\r\nExpect: nothing\r\n\r\n', 200),
        (LIVE + b'Content-Length: 5\r\n\r\nhello', 200),
    ],
    ids=itertools.count(),
)
def test_odd_request_gets_a_clear_answer(
    api: ApiProcess, request_bytes: bytes, status: int
) -> None:
    answer = exchange(api, request_bytes)[0]
    assert answer.status == status, answer
    if status == 200:
        assert json.loads(answer.body) == {'status': 'live'}
    else:
        test_fuzz.check_problem(answer)
    assert 'x-evil' not in answer.headers


@pytest.mark.parametrize('line', [b'Host: b\r\n', b'Content-Length: 99999\r\n'])
def test_refused_head_has_no_body(api: ApiProcess, line: bytes) -> None:
    [answer] = exchange(api, b'HEAD /live HTTP/1.1\r\nHost: a\r\n' + line + b'\r\n')
    assert (answer.status >= 400, answer.body) == (True, b'')


@pytest.mark.parametrize('line', [b'X-Request-ID: a\r\n\tb\r\n', b'X_Request_ID: a\r\n'])
def test_header_that_goes_on_or_has_an_underscore_names_no_request(
    api: ApiProcess, line: bytes
) -> None:
    assert exchange(api, LIVE + line + b'\r\n')[0].headers['x-request-id'] not in ('a', 'b')


@pytest.mark.parametrize(('head', 'status'), [(LIVE, 200), (b'GET /live HTTP/1.1\r\n', 400)])
def test_request_without_a_body_that_expects_100_continue_is_answered(
    api: ApiProcess, head: bytes, status: int
) -> None:
    [answer] = exchange(api, head + b'Expect: 100-continue\r\n\r\n', filler=b'')
    assert answer.status == status


def test_form_body_adds_no_parameters(api: ApiProcess) -> None:
    answer = api.client.request('GET', '/venues/1/available-benefits', data={'personId': '1'})
    assert answer.status_code == 400
    assert answer.json()['detail'] == 'personId is required'


def test_http_1_0_is_answered_and_closed(api: ApiProcess) -> None:
    [answer] = exchange(api, b'GET /live HTTP/1.0\r\n\r\n')
    assert (answer.status, answer.headers['connection']) == (200, 'close')


def test_pipelined_requests_are_answered_in_order(api: ApiProcess) -> None:
    ids = [f'pipelined-{number}' for number in range(20)]
    requests = b''.join(LIVE + f'X-Request-ID: {id_}\r\n\r\n'.encode() for id_ in ids)
    answers = exchange(api, requests)
    assert [answer.headers['x-request-id'] for answer in answers] == ids


def test_refusal_tells_a_client_that_keeps_its_connection_that_it_is_closed(
    api: ApiProcess,
) -> None:
    request = b'GET /live HTTP/1.0\r\nConnection: keep-alive\r\nA : b\r\n\r\n'
    [answer] = exchange(api, request)
    assert (answer.status, answer.headers['connection']) == (400, 'close')


@pytest.mark.parametrize('options', ['close', 'Close'])
def test_connection_is_closed_when_the_client_wants_that(api: ApiProcess, options: str) -> None:
    with socket.create_connection(('127.0.0.1', api.port), timeout=DEADLINE_S) as connection:
        connection.sendall(LIVE + f'Connection: {options}\r\n\r\n'.encode())
        answer = b''
        while chunk := connection.recv(65536):
            answer += chunk
    assert b'\r\nConnection: close\r\n' in answer


@pytest.mark.parametrize(
    ('status', 'kind'),
    [(402, 'invalid-request'), (499, 'invalid-request'), (502, 'internal-error')],
)
def test_status_without_a_kind_of_its_own_gets_the_nearest(status: int, kind: str) -> None:
    assert problem_of_status(status).kind == kind
