"""Caching of responses: ETag, If-None-Match, Cache-Control, Vary, HEAD, OPTIONS and CORS."""

import http.client
from collections.abc import Callable

import falcon.testing
import pytest

from api.app import create_app
from api.config import Settings
from api.http.pages import Page
from tests.support.rows import Rows
from tests.support.service import AVAILABLE, INACTIVE, PATHS, TOP, ApiProcess, as_of
from tests.support.waiting import DEADLINE_S

PAST = '2024-07-01T12:00:00Z'


@pytest.mark.parametrize('path', [*[as_of(path, PAST) for path in PATHS], '/openapi.json'])
@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_known_etag_gives_304_without_a_body(api: ApiProcess, method: str, path: str) -> None:
    first = api.get(path)
    etag = first.headers['etag']
    assert etag.startswith('"')
    for known in (etag, f'W/{etag}', f'"other", {etag}', '*'):
        again = api.client.request(method, path, headers={'If-None-Match': known})
        assert again.status_code == 304
        assert again.content == b''
        assert again.headers['etag'] == etag
        assert again.headers['cache-control'] == first.headers['cache-control']
        assert 'content-type' not in again.headers


def test_304_keeps_the_connection(api: ApiProcess) -> None:
    connection = http.client.HTTPConnection('127.0.0.1', api.port, timeout=DEADLINE_S)
    connection.request('GET', as_of(INACTIVE, PAST))
    connection.getresponse().read()
    kept = connection.sock
    for _ in range(2):
        connection.request('GET', as_of(INACTIVE, PAST), headers={'If-None-Match': '*'})
        again = connection.getresponse()
        assert (again.status, again.read()) == (304, b'')
        assert again.headers['connection'] is None
        assert connection.sock is kept
    connection.close()


@pytest.mark.parametrize('known', ['"other"', 'W/"other"', '', '"'])
def test_other_etag_gives_the_body(api: ApiProcess, known: str) -> None:
    answer = api.get(as_of(TOP, PAST), headers={'If-None-Match': known})
    assert answer.status_code == 200
    assert answer.content


def test_etag_changes_with_the_bytes(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url)
    before = api.get(as_of(TOP, PAST))
    rows.benefit(1)
    rows.uses(1, '2024-06-01')
    after = api.get(as_of(TOP, PAST), headers={'If-None-Match': before.headers['etag']})
    assert after.status_code == 200
    assert after.headers['etag'] != before.headers['etag']


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        (TOP, 'public, max-age=7, stale-while-revalidate=60'),
        (AVAILABLE, 'private, max-age=7'),
        (INACTIVE, 'public, max-age=7, stale-while-revalidate=60'),
        (as_of(TOP, '2999-01-01'), 'public, max-age=7, stale-while-revalidate=60'),
        (as_of(AVAILABLE, PAST), 'private, max-age=77'),
        (as_of(INACTIVE, PAST), 'public, max-age=77, stale-while-revalidate=60'),
        ('/live', 'no-store'),
        ('/ready', 'no-store'),
        ('/venues/99/inactivity-periods', 'no-store'),
        ('/venues/x/inactivity-periods', 'no-store'),
    ],
)
def test_cache_control_fits_the_answer(
    configured_api: ApiProcess, path: str, expected: str
) -> None:
    headers = configured_api.get(path).headers
    assert headers['cache-control'] == expected
    assert ('etag' in headers) == (expected != 'no-store')


@pytest.fixture(scope='module')
def configured_api(sample_url: str, tmp_path_factory: pytest.TempPathFactory) -> ApiProcess:
    """Return an API process with its own cache times and two origins."""
    process = ApiProcess(
        tmp_path_factory.mktemp('api'),
        {
            'DATABASE_URL': sample_url,
            'API_CACHE_S': '7',
            'API_CACHE_PAST_S': '77',
            'API_CORS_ORIGINS': 'https://a.example,https://b.example',
        },
    )
    yield process
    process.stop()


def test_report_that_may_not_be_cached_is_never_served_late(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_CACHE_S='0')
    assert api.get(TOP).headers['cache-control'] == 'public, max-age=0'


def test_options_lists_the_methods(api: ApiProcess) -> None:
    for path in (*PATHS, '/', '/docs', '/live'):
        answer = api.client.options(path)
        assert (answer.status_code, answer.content) == (200, b'')
        assert answer.headers['allow'] == 'GET, HEAD'


def test_cors_is_off_by_default(api: ApiProcess) -> None:
    answer = api.get(as_of(TOP, PAST), headers={'Origin': 'https://a.example'})
    assert not [name for name in answer.headers if name.startswith('access-control')]
    assert answer.headers['vary'] == 'Accept-Encoding'


def test_cors_allows_exactly_the_configured_origins(configured_api: ApiProcess) -> None:
    path = as_of(TOP, PAST)
    for origin in ('https://a.example', 'https://b.example'):
        answer = configured_api.get(path, headers={'Origin': origin})
        assert answer.headers['access-control-allow-origin'] == origin
        assert 'X-Request-ID' in answer.headers['access-control-expose-headers']
        assert 'Origin' in answer.headers['vary'].split(', ')
    for origin in ('https://c.example', 'http://a.example', 'https://a.example.evil', 'null', '*'):
        answer = configured_api.get(path, headers={'Origin': origin})
        assert 'access-control-allow-origin' not in answer.headers
        assert 'Origin' in answer.headers['vary'].split(', ')


def test_cors_preflight(configured_api: ApiProcess) -> None:
    asked = {'Origin': 'https://a.example', 'Access-Control-Request-Method': 'GET'}
    answer = configured_api.client.options(TOP, headers=asked)
    assert answer.status_code == 200
    assert 'GET' in answer.headers['access-control-allow-methods']
    refused = configured_api.client.options(TOP, headers=asked | {'Origin': 'https://c.example'})
    assert 'access-control-allow-methods' not in refused.headers


def test_root_varies_by_accept(api: ApiProcess) -> None:
    browser = api.get('/', headers={'Accept': 'text/html,application/xhtml+xml,*/*;q=0.8'})
    assert (browser.status_code, browser.headers['location']) == (302, 'docs')
    program = api.get('/')
    assert f'/{program.json()["reports"][0]}' == TOP
    assert browser.headers['vary'] == program.headers['vary'] == 'Accept'


@pytest.mark.parametrize('accept', ['text/xml', 'application/json;q=0', '?', ''])
def test_reports_are_json_whatever_is_accepted(api: ApiProcess, accept: str) -> None:
    answer = api.get(as_of(TOP, PAST), headers={'Accept': accept})
    assert answer.status_code == 200
    assert answer.headers['content-type'] == 'application/json'
    assert api.get('/nowhere', headers={'Accept': accept}).status_code == 404


@pytest.mark.parametrize(
    ('accepted', 'encoding'),
    [
        *((accepted, 'gzip') for accepted in ('gzip', 'GZIP', 'br, gzip;q=0.5', '*')),
        *((accepted, None) for accepted in ('', 'identity', 'gzip;q=0', 'gzip; q=0.000')),
        *((accepted, None) for accepted in ('*;q=0', '*, gzip;q=0', 'xgzip', ';;,,=')),
    ],
)
def test_large_answer_is_compressed_for_who_accepts_it(
    api: ApiProcess, accepted: str, encoding: str | None
) -> None:
    answer = api.get('/openapi.json', headers={'Accept-Encoding': accepted})
    assert answer.headers.get('content-encoding') == encoding
    assert answer.headers['vary'] == 'Accept-Encoding'
    assert answer.json()['openapi']
    assert (int(answer.headers['content-length']) < 10000) == bool(encoding)


def test_compressed_form_has_its_own_etag_and_304(api: ApiProcess) -> None:
    plain = api.get('/openapi.json', headers={'Accept-Encoding': 'identity'}).headers['etag']
    zipped = api.get('/openapi.json', headers={'Accept-Encoding': 'gzip'}).headers['etag']
    assert plain != zipped
    for encoding, known, status in [
        ('gzip', zipped, 304),
        ('identity', plain, 304),
        ('gzip', plain, 200),
        ('identity', zipped, 200),
    ]:
        headers = {'Accept-Encoding': encoding, 'If-None-Match': known}
        assert api.get('/openapi.json', headers=headers).status_code == status


@pytest.mark.parametrize('length', [9_999, 10_000])
def test_answer_is_compressed_from_10000_bytes_on(length: int) -> None:
    app = create_app(Settings(database_url='host=/nowhere'))
    app.add_route('/page', Page(b'x' * length, is_cacheable=True))
    client = falcon.testing.TestClient(app, headers={'Accept-Encoding': 'gzip'})
    is_compressed = 'content-encoding' in client.simulate_get('/page').headers
    assert is_compressed == (length >= 10_000)


def test_large_answer_arrives_whole(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.connection.execute(
        "insert into venue select n, 'Venue' from generate_series(2, 30000) as numbers (n)"
    )
    api = start_api(DATABASE_URL=database_url)
    plain = api.get(TOP, headers={'Accept-Encoding': 'identity'})
    assert len(plain.content) > 1_000_000
    assert [venue['venueId'] for venue in plain.json()] == list(range(1, 30001))
    zipped = api.get(TOP, headers={'Accept-Encoding': 'gzip'})
    assert zipped.headers['content-encoding'] == 'gzip'
    assert zipped.content == plain.content
