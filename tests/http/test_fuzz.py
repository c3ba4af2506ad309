"""Arbitrary bytes get a well-formed HTTP response that reports no failure of the service."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from api.http.problems import PROBLEMS, TYPE_PREFIX
from api.server.http_server import MAX_BODY_BYTES, MAX_HEADER_BYTES
from tests.support.service import ApiProcess, settled_output
from tests.support.waiting import DEADLINE_S

# the same examples in every run
FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# completes an unfinished request: its head becomes too long, or its body gets all its bytes, and
# the rest is not HTTP. So the service always responds, and then closes the connection. Responses
# must be small, because closing a connection with unread bytes discards what is not yet sent.
FILLER = b'x' * max(MAX_HEADER_BYTES, MAX_BODY_BYTES) + b'\r\n\r\n'
STATUS_LINE = re.compile(rb'HTTP/1\.[01] ([1-5][0-9]{2}) [ -~]*')
FIELD_LINE = re.compile(rb'([A-Za-z0-9-]+): ([ -~]*)')
# internals that no client needs to know
INSIDE = re.compile(rb'Traceback|File "|psycopg|waitress|falcon|select |benefit_usage|/\* ', re.I)


class Answer(NamedTuple):
    """An answer: its status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(api: ApiProcess, sent: bytes, filler: bytes = FILLER) -> list[Answer]:
    """Send bytes, with or without a filler; returns all responses, which must be valid HTTP."""
    received = b''
    with socket.create_connection(('127.0.0.1', api.port), timeout=DEADLINE_S) as connection:
        with suppress(OSError):  # rejected before everything was sent
            connection.sendall(sent + filler)
            if not filler:
                connection.shutdown(socket.SHUT_WR)
        was_reset = False
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:  # closed with data unread: the kernel may drop a part of the answer
            was_reset = True
    assert received or was_reset, sent
    # only the first request can be a HEAD, because the filler is not
    is_head = sent.lstrip().startswith(b'HEAD ')
    try:
        return list(split(received, has_body=not is_head))
    except EOFError:
        assert was_reset, received
        return []


def split(received: bytes, *, has_body: bool) -> Iterator[Answer]:
    """Yield the responses in a stream of bytes; the first may be a response to HEAD.

    Raises:
        EOFError: The last answer is not complete.
    """
    while received:
        head, end, received = received.partition(b'\r\n\r\n')
        if not end and head.startswith(b'HTTP/'):
            raise EOFError
        assert end, head
        first, *lines = head.split(b'\r\n')
        status_line = STATUS_LINE.fullmatch(first)
        assert status_line, first
        fields = [FIELD_LINE.fullmatch(line) for line in lines]
        assert all(fields), head
        names = [field[1].decode().lower() for field in fields]
        assert len(set(names)) == len(names), head
        headers = {name: field[2].decode() for name, field in zip(names, fields, strict=True)}
        status = int(status_line[1])
        if status == 100:  # Expect: 100-continue
            continue
        # refused before the server has read that it is a HEAD
        has_body = has_body or (status in (400, 431, 501) and received.startswith(b'{"type"'))
        length = int(headers['content-length']) if has_body and status != 304 else 0
        if len(received) < length:
            raise EOFError
        yield Answer(status, headers, received[:length])
        received = received[length:]
        has_body = True


def check(answers: list[Answer], sent: bytes) -> None:
    assert answers
    for answer in answers:
        status = answer.status
        is_redirect = status == 302 and answer.headers['location'] in ('docs', '../docs')
        # RFC 9112, 6.1: the status for an unknown transfer coding
        is_coding = status == 501 and b'transfer-encoding' in sent.lower()
        is_fine = status // 100 in (2, 4) or status == 304
        assert is_fine or is_redirect or is_coding, answer
        assert answer.headers['x-request-id'] or status < 400
        if status >= 400 and answer.body:
            check_problem(answer)


def check_problem(answer: Answer) -> None:
    assert answer.headers['content-type'] == 'application/problem+json'
    assert answer.headers['cache-control'] == 'no-store'
    problem = json.loads(answer.body)
    kind = problem['type'].removeprefix(TYPE_PREFIX)
    assert PROBLEMS[kind][:2] == (answer.status, problem['title'])
    assert problem['status'] == answer.status
    assert problem['requestId'] == answer.headers['x-request-id']
    assert not INSIDE.search(answer.body)


@pytest.fixture(scope='module', autouse=True)
def unharmed(api: ApiProcess) -> Iterator[None]:
    """Check that the service still responds after these tests, and logged no errors."""
    begin = len(api.output())
    yield
    assert api.get('/venues/top-benefits').status_code == 200
    log = settled_output(api)[begin:]
    assert 'level=error' not in log
    assert 'Traceback' not in log


ROUTES = (
    *('/venues/top-benefits', '/venues/1/available-benefits', '/venues/1/inactivity-periods'),
    *('/live', '/ready', '/metrics', '/', '/docs', '/docs/static/index.css'),
    *('/docs/problems/overloaded', '/openapi.json'),
)

junk = st.binary(max_size=40)
visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
long = st.sampled_from([b'x', b'%41', b'/', b'?', b'\xff', b'%00', b'a=b&', b'../']).flatmap(
    lambda piece: st.integers(1, 9000).map(lambda times: piece * times)
)
escape = st.integers(0, 255).map(lambda byte: b'%%%02X' % byte)
odd_escape = st.sampled_from([b'%', b'%zz', b'%0', b'%u0031', b'%C3%28', b'%ED%A0%80', b'%F0%9F'])
piece = st.one_of(visible, escape, odd_escape, junk)
methods = st.one_of(
    st.sampled_from(b'GET HEAD POST DELETE OPTIONS TRACE CONNECT get PRI WEBSOCKET *'.split()),
    visible,
    junk,
)
targets = st.one_of(
    st.sampled_from(ROUTES).map(str.encode),
    st.builds(
        lambda route, tail: route.encode() + tail,
        st.sampled_from(ROUTES),
        st.lists(piece, max_size=3).map(b''.join),
    ),
    st.builds(lambda pieces: b'/' + b'/'.join(pieces), st.lists(piece, max_size=5)),
    st.sampled_from([b'*', b'http://other/live', b'http://[::1/', b'http://[x]/', b'//a', b'a:80']),
    long.map(lambda text: b'/' + text),
    junk,
)
versions = st.sampled_from(
    [b'HTTP/1.1', b'HTTP/1.0', b'HTTP/2.0', b'HTTP/0.9', b'HTTP/1.', b'http/1.1', b'']
)
request_lines = st.one_of(
    st.tuples(methods, targets, versions).map(b' '.join),
    st.tuples(st.just(b'GET'), targets, st.just(b'HTTP/1.1')).map(b' '.join),
    st.lists(piece, max_size=6).map(b' '.join),
)
numbers = st.integers(-(2**70), 2**70).map(lambda number: b'%d' % number)
values = st.one_of(visible, junk, long, numbers, st.lists(piece, max_size=4).map(b', '.join))
ODD_VALUES = {
    b'Content-Length': [b'0', b'5', b'00', b'+5', b'-1', b'5, 5', b'0x5', b'65536', b'9' * 5000],
    b'Transfer-Encoding': [b'chunked', b'gzip', b'chunked, chunked', b'gzip, chunked', b'CHUNKED'],
    b'Connection': [b'close', b'keep-alive', b'upgrade', b'Transfer-Encoding'],
    b'Expect': [b'100-continue', b'200-ok'],
    b'Host': [b'', b'a b', b'[::1', b'x:y:z'],
    b'Authorization': [b'Bearer', b'Bearer x', b'Bearer \xff', b'Basic Og=='],
    b'X-Request-ID': [b'fine', b'x' * 65, b'a b', b'\xc3\xa9', b'"; drop'],
    b'If-None-Match': [b'*', b'"', b'""', b'W/"', b'"a", W/"b",', b',' * 99, b'a\\"b'],
    b'Accept-Encoding': [b'gzip', b'gzip;q=', b'*;q=0', b';;;', b'gzip;q=nan', b'identity;q=0'],
    b'Accept': [b'text/html', b'*', b'/', b'a/b;q=x', b';q=1', b'text/html;q=9' * 50],
    b'Origin': [b'null', b'http://a b'],
    b'Cookie': [b'=', b'a=b;;;=', b'\xff=\xfe'],
    b'X-Forwarded-For': [b'unknown,,'],
}
fields = st.one_of(
    st.sampled_from(list(ODD_VALUES)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(ODD_VALUES[name]) | values)
    ),
    st.tuples(visible, values),
).map(b': '.join)
# lines that are not fields
lines = fields | junk | st.just(b' folded') | st.just(b'no colon')
heads = st.builds(
    lambda line, others, repeat: b'\r\n'.join([line, *others, *(others if repeat else [])]),
    request_lines,
    st.lists(lines, max_size=4),
    st.booleans(),
)
bodies = st.one_of(st.just(b''), junk, st.just(b'5\r\nhello\r\n0\r\n\r\n'), st.just(b'zz\r\n'))


@FUZZ
@given(head=heads | st.binary(max_size=300), body=bodies)
@example(head=b'GET /live HTTP/1.1\r\nConnection: keep-alive\r\nno colon', body=b'')
def test_odd_requests(api: ApiProcess, head: bytes, body: bytes) -> None:
    sent = head + b'\r\n\r\n' + body
    answers = exchange(api, sent)
    assume(answers)
    check(answers, sent)
