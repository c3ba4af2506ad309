"""nginx as deploy/nginx.conf makes it, in front of the API: TLS, what it keeps, what it hides."""

import http.client
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import sha256

import httpx
import psycopg
import pytest
import trustme

from tests.support.daemon import Daemon
from tests.support.machine import free_port
from tests.support.postgres import cloned
from tests.support.project import ROOT
from tests.support.rows import Rows
from tests.support.service import ApiProcess, connections, settled_output, workers
from tests.support.waiting import DEADLINE_S, wait_for
from tools.embedded import EmbeddedServer

TOP = '/venues/top-benefits'
INACTIVE = '/venues/1/inactivity-periods'
AVAILABLE = '/venues/1/available-benefits?personId=1'
PAST = 'timestamp=2024-07-02'
PATIENT = {'API_STATEMENT_TIMEOUT_S': '60', 'API_SHUTDOWN_TIMEOUT_S': '1'}

NAME = 'reports.example.com'
AROUND = """
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""


# a connection of which a request began a renewal takes its next one when that is done
ONE_REQUEST = httpx.Limits(max_keepalive_connections=0)


class Proxy(Daemon):
    """nginx with our file, in front of an API process.

    Attributes:
        client: Talks to it over TLS.
        context: Whom the client trusts.
        plain_url: Where it listens without.
    """

    def __init__(self, api_port: int) -> None:
        super().__init__('nginx', 'nginx-light')
        plain_port = free_port()
        self.plain_url = f'http://127.0.0.1:{plain_port}'
        block = (ROOT / 'deploy' / 'nginx.conf').read_text()
        for there, here in [
            ('/var/cache', str(self.folder)),
            ('127.0.0.1:8000', f'127.0.0.1:{api_port}'),
            ('listen 80;', f'listen 127.0.0.1:{plain_port};'),
            ('listen 443 ssl;', f'listen 127.0.0.1:{self.port} ssl;'),
            (f'/etc/ssl/certs/{NAME}.pem', f'{self.folder}/certificate'),
            (f'/etc/ssl/private/{NAME}.key', f'{self.folder}/key'),
            # here an answer may be slower than any deadline of the service's
            ('lock_age 10s', 'lock_age 60s'),
            ('lock_timeout 10s', 'lock_timeout 60s'),
        ]:
            assert block.count(there) == 1, there
            block = block.replace(there, here)
        authority = trustme.CA()
        issued = authority.issue_cert(NAME, '127.0.0.1')
        (self.folder / 'certificate').write_bytes(issued.cert_chain_pems[0].bytes())
        (self.folder / 'key').write_bytes(issued.private_key_pem.bytes())
        conf = self.folder / 'conf'
        conf.write_text(AROUND.format(folder=self.folder, block=block))
        self.start('-c', str(conf), '-e', 'stderr')
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)
        self.client = httpx.Client(
            base_url=f'https://127.0.0.1:{self.port}',
            headers={'Host': NAME},
            verify=self.context,
            timeout=DEADLINE_S,
            limits=ONE_REQUEST,
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Send a GET; an underscore in a header's name is a hyphen."""
        named = {name.replace('_', '-'): value for name, value in headers.items()}
        return self.client.get(path, headers=named)

    def __exit__(self, *_: object) -> None:
        self.client.close()
        super().__exit__()


@pytest.fixture
def start_proxy(start_api: Callable[..., ApiProcess]) -> Iterator[Callable[[ApiProcess], Proxy]]:
    """Return a function that starts nginx in front of an API process."""
    started: list[Proxy] = []

    def start(api: ApiProcess) -> Proxy:
        started.append(Proxy(api.port))
        return started[-1]

    yield start
    for proxy in started:
        proxy.__exit__()


def asked(api: ApiProcess) -> list[str]:
    """Return the lines of the API's log about reports."""
    return sorted(  # each begins with its time, and each worker writes its own when it can
        line
        for line in settled_output(api).splitlines()
        if ' event=request ' in line and ' route=/venues/' in line
    )


def wait_until_held_up(rows: Rows) -> None:
    """Wait until the database holds up a report."""
    query = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and query like '-- name: %' and datname = current_database()"
    )

    def is_held_up() -> bool:
        # a transaction would go on seeing what it saw first
        rows.connection.execute('select pg_stat_clear_snapshot()')
        return rows.connection.execute(query).fetchone() != (0,)

    wait_for(is_held_up)


@contextmanager
def held_up(rows: Rows) -> Iterator[None]:
    """Let no report end before the block does, however long it takes."""
    with rows.connection.transaction():
        rows.connection.execute('lock table benefit_usage')
        yield


def assert_away(answer: httpx.Response) -> None:
    """Look at what nginx answers in the name of a service that is not there."""
    assert answer.status_code == 503
    assert answer.headers['content-type'] == 'application/problem+json'
    assert answer.headers['cache-control'] == 'no-store'
    assert int(answer.headers['retry-after']) > 0
    assert answer.json() == {
        'type': 'about:blank',
        'title': 'Service Unavailable',
        'status': 503,
        'detail': 'The service cannot be reached now; try again after the seconds in Retry-After.',
        'requestId': answer.headers['x-request-id'],
    }


def test_identical_requests_at_once_are_one_for_the_api(
    rows: Rows, database_url: str, start_api: Callable, start_proxy: Callable
) -> None:
    api = start_api(DATABASE_URL=database_url, **PATIENT)
    proxy = start_proxy(api)
    with ThreadPoolExecutor(30) as clients:
        with held_up(rows):
            asking = [clients.submit(proxy.get, TOP) for _ in range(30)]
            wait_until_held_up(rows)
            assert not any(answer.done() for answer in asking)
        answers = [answer.result() for answer in asking]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers['x-cache'] for answer in answers].count('MISS') == 1
    assert len(asked(api)) == 1


@pytest.mark.slow
def test_stale_answer_is_given_at_once_while_one_request_renews_it(
    rows: Rows, database_url: str, start_api: Callable, start_proxy: Callable
) -> None:
    rows.benefit(1)
    api = start_api(DATABASE_URL=database_url, API_CACHE_S='1', **PATIENT)
    proxy = start_proxy(api)
    old = proxy.get(TOP)
    assert old.headers['cache-control'] == 'public, max-age=1, stale-while-revalidate=60'
    with held_up(rows):
        rows.connection.execute(
            'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
            " values (1, 1, now() at time zone 'UTC' - interval '1 hour')"
        )
        wait_for(lambda: proxy.get(TOP).headers['x-cache'] == 'STALE')
        wait_until_held_up(rows)
        for _ in range(20):
            stale = proxy.get(TOP)
            assert stale.status_code == 200
            assert stale.content == old.content
        assert len(asked(api)) == 1
    wait_for(lambda: len(asked(api)) > 1)
    assert len(asked(api)) == 2
    wait_for(lambda: proxy.get(TOP).content != old.content)
    assert proxy.get(TOP).json()[0]['topBenefits180Days'] == [{'benefitId': 1, 'usageCount': 1}]


@pytest.mark.slow
def test_unchanged_answer_is_renewed_by_a_304(
    rows: Rows, database_url: str, start_api: Callable, start_proxy: Callable
) -> None:
    api = start_api(DATABASE_URL=database_url, API_CACHE_S='1')
    proxy = start_proxy(api)
    assert proxy.get(TOP).status_code == 200
    wait_for(lambda: proxy.get(TOP).headers['x-cache'] == 'STALE')
    wait_for(lambda: len(asked(api)) == 2)
    assert 'status=304' in asked(api)[1]
    # and is fresh again
    wait_for(lambda: proxy.get(TOP).headers['x-cache'] == 'HIT')


@pytest.mark.slow
def test_outage_gives_what_is_kept_and_keeps_no_error(
    rows: Rows, database_url: str, start_api: Callable, start_proxy: Callable
) -> None:
    api = start_api(DATABASE_URL=database_url, API_CACHE_S='1')
    proxy = start_proxy(api)
    kept = proxy.get(TOP)
    rows.connection.execute('alter table benefit_usage rename to gone')
    wait_for(lambda: len(asked(api)) >= 3 or proxy.get(TOP) is None)
    assert all('status=500' in line for line in asked(api)[1:])
    assert proxy.get(TOP).content == kept.content
    for times in (1, 2):
        assert proxy.get(INACTIVE).status_code == 500
        assert len([line for line in asked(api) if 'inactivity' in line]) == times
    rows.connection.execute('alter table gone rename to benefit_usage')
    assert proxy.get(INACTIVE).status_code == 200
    api.stop()
    assert proxy.get(TOP).content == kept.content
    assert_away(proxy.get('/venues/2/inactivity-periods'))


@pytest.fixture(scope='module')
def pair(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ApiProcess, Proxy]]:
    """Return an API process with CORS, and nginx in front of it."""
    with cloned(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            rows = Rows(connection)
            rows.venues(*range(1, 500))
            rows.people(1)
            rows.benefit(1)
        api = ApiProcess(
            tmp_path_factory.mktemp('api'),
            {'DATABASE_URL': url, 'API_CORS_ORIGINS': 'https://a.example,https://b.example'},
        )
        try:
            with Proxy(api.port) as proxy:
                yield api, proxy
        finally:
            api.stop()


def test_what_is_about_a_person_or_an_error_reaches_the_api_every_time(
    pair: tuple[ApiProcess, Proxy],
) -> None:
    api, proxy = pair
    wanted = [(AVAILABLE, 200), (f'{TOP}?x=1', 400), ('/venues/999/inactivity-periods', 404)]
    for path, status in wanted:
        before = len(asked(api))
        for _ in range(3):
            assert proxy.get(path).status_code == status
        assert len(asked(api)) == before + 3
    [etag] = {proxy.get(AVAILABLE).headers['etag']}
    assert proxy.get(AVAILABLE, If_None_Match=etag).status_code == 304
    assert 'status=304' in asked(api)[-1]
    assert proxy.get('/openapi.json').status_code == 200


def test_answer_that_is_kept_serves_every_client(pair: tuple[ApiProcess, Proxy]) -> None:
    api, proxy = pair
    path = f'{TOP}?{PAST}'
    before = len(asked(api))
    first = proxy.get(path, Accept_Encoding='gzip', X_Request_ID='mine-1')
    assert first.headers['content-encoding'] == 'gzip'
    assert first.headers['vary'] == 'Accept-Encoding, Origin'
    assert first.headers['x-request-id'] == 'mine-1'
    assert 'request_id=mine-1 ' in asked(api)[-1]
    for encoding in ('gzip, deflate, br', 'identity', 'gzip;q=0'):
        again = proxy.get(path, Accept_Encoding=encoding)
        assert again.headers['x-cache'] == 'HIT'
        assert ('content-encoding' in again.headers) == encoding.startswith('gzip,')
        assert again.content == first.content
        assert again.headers['x-request-id'] != 'mine-1'
        known = proxy.get(path, Accept_Encoding=encoding, If_None_Match=again.headers['etag'])
        assert (known.status_code, known.content) == (304, b'')
    head = proxy.client.head(path)
    assert (head.status_code, head.content, head.headers['x-cache']) == (200, b'', 'HIT')
    assert len(asked(api)) == before + 1


def test_answer_of_one_origin_is_not_given_to_another(pair: tuple[ApiProcess, Proxy]) -> None:
    _, proxy = pair
    allowed = 'access-control-allow-origin'
    for _ in range(2):
        for origin in ('https://a.example', 'https://b.example'):
            assert proxy.get(TOP, Origin=origin).headers[allowed] == origin
        assert allowed not in proxy.get(TOP).headers
        assert allowed not in proxy.get(TOP, Origin='https://c.example').headers


@pytest.mark.parametrize('sent', ['a b', 'x' * 65, '', 'é'.encode().decode('latin-1')])
def test_request_id_that_is_not_sane_is_replaced_in_both_places(
    pair: tuple[ApiProcess, Proxy], sent: str
) -> None:
    api, proxy = pair
    answer = proxy.client.get(AVAILABLE, headers={'X-Request-ID': sent.encode('latin-1')})
    id_ = answer.headers['x-request-id']
    assert re.fullmatch('[0-9a-f]{32}', id_)
    assert f'request_id={id_} ' in asked(api)[-1]


def test_connections_to_the_api_are_kept(pair: tuple[ApiProcess, Proxy]) -> None:
    api, proxy = pair

    def proxied() -> set[int]:
        return {
            connection.raddr.port
            for worker in workers(api)
            for connection in connections(worker)
            if connection.laddr.port == api.port
        }

    seen = before = proxied()
    for _ in range(20):
        proxy.get(AVAILABLE)
        assert proxied()
        seen = seen | proxied()
    # each of nginx's two workers may have opened one
    assert len(seen - before) <= 2


def test_tokens_keep_everything_out_of_the_cache(
    rows: Rows, database_url: str, start_api: Callable, start_proxy: Callable
) -> None:
    token = os.urandom(16).hex()
    hash_ = sha256(token.encode()).hexdigest()
    api = start_api(DATABASE_URL=database_url, API_TOKEN_SHA256=hash_)
    proxy = start_proxy(api)
    for times in (1, 2, 3):
        answer = proxy.get(f'{TOP}?{PAST}', Authorization=f'Bearer {token}')
        assert answer.status_code == 200
        assert answer.headers['cache-control'].startswith('private')
        assert proxy.get(f'{TOP}?{PAST}').status_code == 401
        assert len(asked(api)) == times * 2


def test_without_tls_there_is_only_the_way_to_tls(pair: tuple[ApiProcess, Proxy]) -> None:
    api, proxy = pair
    before = settled_output(api)
    for path in (AVAILABLE, '/metrics', '/docs'):
        answer = httpx.get(proxy.plain_url + path, headers={'Host': NAME}, timeout=DEADLINE_S)
        assert answer.status_code == 308
        assert answer.headers['location'] == f'https://{NAME}{path}'
    assert api.output() == before


@pytest.mark.parametrize(
    'path',
    [
        *('/metrics', '/live', '/ready', '/metrics?x=1', '/%6Detrics', '//metrics', '/x/../live'),
        *('/metrics/', '/ready//', '/Metrics', '/metrics%2F', '/metrics;x', '/live%00'),
    ],
)
def test_what_is_for_operators_is_not_handed_to_the_world(
    pair: tuple[ApiProcess, Proxy], path: str
) -> None:
    _, proxy = pair
    # httpx would tidy the path up
    connection = http.client.HTTPSConnection('127.0.0.1', proxy.port, context=proxy.context)
    with closing(connection):
        connection.request('GET', path, headers={'Host': NAME, 'Authorization': 'Bearer x'})
        answer = connection.getresponse()
        assert answer.status in (400, 404)
        told = answer.read().decode()
    assert 'benefits_api' not in told
    assert '"live"' not in told
    assert '"ready"' not in told


def test_what_is_hidden_looks_like_what_is_not_there(pair: tuple[ApiProcess, Proxy]) -> None:
    _, proxy = pair
    missing = proxy.get('/nowhere', X_Request_ID='mine-2')
    for path in ('/metrics', '/live', '/ready'):
        hidden = proxy.get(path, X_Request_ID='mine-2')
        assert hidden.status_code == missing.status_code
        assert hidden.json() == missing.json()
        for name in ('content-type', 'cache-control', 'x-request-id'):
            assert hidden.headers[name] == missing.headers[name]
    assert proxy.client.head('/metrics').content == b''


@pytest.mark.parametrize('listens', [False, True])
def test_service_that_is_away_or_gives_no_answer_is_a_problem(listens: bool) -> None:
    with socket.create_server(('127.0.0.1', 0)) as service:
        service.settimeout(DEADLINE_S)
        if not listens:
            service.close()
        with Proxy(service.getsockname()[1] if listens else free_port()) as proxy:
            for path in (TOP, AVAILABLE, '/docs'):
                with ThreadPoolExecutor(1) as client:
                    asking = client.submit(proxy.get, path, X_Request_ID='mine-3')
                    if listens:
                        service.accept()[0].close()
                    assert_away(asking.result())
                    assert asking.result().headers['x-request-id'] == 'mine-3'


def test_errors_of_the_service_go_through_as_they_are(
    rows: Rows, database_url: str, start_api: Callable, start_proxy: Callable
) -> None:
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='0.2')
    without_database = start_api(DATABASE_URL='host=/nowhere', API_POOL_TIMEOUT_S='0.2')
    proxy = start_proxy(api)

    def assert_the_same(path: str, status: int, api: ApiProcess, proxy: Proxy) -> None:
        sent = {'X-Request-ID': 'mine-4'}
        here, there = (client.get(path, headers=sent) for client in (proxy.client, api.client))
        assert (here.status_code, here.content) == (status, there.content)
        for name in ('content-type', 'cache-control', 'retry-after'):
            assert here.headers.get(name) == there.headers.get(name)

    assert_the_same('/nowhere', 404, api, proxy)
    assert_the_same(f'{TOP}?x=1', 400, api, proxy)
    with held_up(rows):
        assert_the_same(AVAILABLE, 504, api, proxy)
    assert_the_same(AVAILABLE, 503, without_database, start_proxy(without_database))
