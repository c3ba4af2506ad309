"""nginx with deploy/nginx.conf in front of the service: TLS, the cache, and hidden paths."""

import http.client
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256

import httpx
import pytest
import trustme

from tests.support.daemon import Daemon
from tests.support.machine import free_port
from tests.support.postgres import cloned
from tests.support.project import ROOT
from tests.support.rows import Rows, locked_uses, open_rows, wait_until_busy
from tests.support.service import AVAILABLE, TOP, ApiProcess, settled_output
from tests.support.waiting import DEADLINE_S, wait_for
from tools.embedded import EmbeddedServer

pytestmark = pytest.mark.slow
PAST = 'timestamp=2024-07-02'

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


# if a request starts a background update, nginx reads the next one of its connection after that
ONE_REQUEST = httpx.Limits(max_keepalive_connections=0)


class Proxy(Daemon):
    """nginx with deploy/nginx.conf, in front of an API process.

    Attributes:
        client: An HTTPS client for it.
        context: The TLS context of the client.
        plain_url: The URL for HTTP.
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
            # on a busy machine, a response may take longer
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


def asked(api: ApiProcess) -> list[str]:
    """Return the lines of the API's log about reports."""
    return sorted(  # by time: the lines of several workers are not in order
        line
        for line in settled_output(api).splitlines()
        if ' event=request ' in line and ' route=/venues/' in line
    )


def test_identical_requests_at_once_are_one_for_the_api(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    api = start_api(DATABASE_URL=database_url)
    with Proxy(api.port) as proxy, ThreadPoolExecutor(30) as clients:
        with locked_uses(database_url):
            asking = [clients.submit(proxy.get, TOP) for _ in range(30)]
            wait_until_busy(rows, 'top')
        answers = [answer.result() for answer in asking]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.headers['x-cache'] for answer in answers].count('MISS') == 1
    assert len(asked(api)) == 1


def test_stale_answer_is_given_at_once_while_a_304_renews_it_and_during_an_outage(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    api = start_api(DATABASE_URL=database_url, API_CACHE_S='1')
    with Proxy(api.port) as proxy:
        kept = proxy.get(TOP)
        with locked_uses(database_url):
            wait_for(lambda: proxy.get(TOP).headers['x-cache'] == 'STALE')
            wait_until_busy(rows, 'top')
            for _ in range(20):
                assert proxy.get(TOP).content == kept.content
        wait_for(lambda: len(asked(api)) == 2)
        assert 'status=304' in asked(api)[1]
        wait_for(lambda: proxy.get(TOP).headers['x-cache'] == 'HIT')
        api.stop()
        assert proxy.get(TOP).content == kept.content
        away = proxy.get(AVAILABLE)
    assert away.status_code == 503
    assert away.headers['content-type'] == 'application/problem+json'
    assert away.headers['cache-control'] == 'no-store'
    assert int(away.headers['retry-after']) > 0
    assert away.json()['type'] == 'about:blank'
    assert away.json()['requestId'] == away.headers['x-request-id']


@pytest.fixture(scope='module')
def pair(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ApiProcess, Proxy]]:
    """Return an API process with CORS, and nginx in front of it."""
    with cloned(server) as url:
        with open_rows(url) as rows:
            rows.venues(*range(2, 500))  # so that answers are compressed
        settings = {'DATABASE_URL': url, 'API_CORS_ORIGINS': 'https://a.example'}
        api = ApiProcess(tmp_path_factory.mktemp('api'), settings)
        try:
            with Proxy(api.port) as proxy:
                yield api, proxy
        finally:
            api.stop()


def test_what_is_about_a_person_or_an_error_reaches_the_api_every_time(
    pair: tuple[ApiProcess, Proxy],
) -> None:
    api, proxy = pair
    for path, status in [(AVAILABLE, 200), (f'{TOP}?x=1', 400)]:
        before = len(asked(api))
        for _ in range(3):
            assert proxy.get(path).status_code == status
        assert len(asked(api)) == before + 3


def test_answer_that_is_kept_serves_every_client(pair: tuple[ApiProcess, Proxy]) -> None:
    api, proxy = pair
    path = f'{TOP}?{PAST}'
    before = len(asked(api))
    first = proxy.get(path, Accept_Encoding='gzip')
    for encoding in ('gzip, deflate, br', 'identity'):
        again = proxy.get(path, Accept_Encoding=encoding)
        assert again.headers['x-cache'] == 'HIT'
        assert ('content-encoding' in again.headers) == encoding.startswith('gzip,')
        assert again.content == first.content
        assert again.headers['x-request-id'] != first.headers['x-request-id']
        known = proxy.get(path, Accept_Encoding=encoding, If_None_Match=again.headers['etag'])
        assert (known.status_code, known.content) == (304, b'')
    assert len(asked(api)) == before + 1


def test_answer_of_one_origin_is_not_given_to_another(pair: tuple[ApiProcess, Proxy]) -> None:
    _, proxy = pair
    allowed = 'access-control-allow-origin'
    assert proxy.get(TOP, Origin='https://a.example').headers[allowed] == 'https://a.example'
    assert allowed not in proxy.get(TOP).headers
    assert allowed not in proxy.get(TOP, Origin='https://c.example').headers


@pytest.mark.parametrize(('sent', 'is_kept'), [('mine-1', True), ('a b', False)])
def test_request_id_is_the_same_in_the_answer_and_the_log(
    pair: tuple[ApiProcess, Proxy], sent: str, is_kept: bool
) -> None:
    api, proxy = pair
    id_ = proxy.get(AVAILABLE, X_Request_ID=sent).headers['x-request-id']
    assert (id_ == sent) == is_kept
    assert f'request_id={id_} ' in asked(api)[-1]


def test_tokens_keep_everything_out_of_the_cache(sample_url: str, start_api: Callable) -> None:
    hash_ = sha256(b'a-token-that-nobody-guesses').hexdigest()
    api = start_api(DATABASE_URL=sample_url, API_TOKEN_SHA256=hash_)
    path, token = f'{TOP}?{PAST}', 'Bearer a-token-that-nobody-guesses'
    with Proxy(api.port) as proxy:
        for times in (1, 2, 3):
            assert proxy.get(path, Authorization=token).status_code == 200
            assert proxy.get(path).status_code == 401
            assert len(asked(api)) == times * 2


def test_without_tls_there_is_only_the_way_to_tls(pair: tuple[ApiProcess, Proxy]) -> None:
    _, proxy = pair
    answer = httpx.get(proxy.plain_url + AVAILABLE, headers={'Host': NAME}, timeout=DEADLINE_S)
    assert answer.status_code == 308
    assert answer.headers['location'] == f'https://{NAME}{AVAILABLE}'


def test_what_is_for_operators_looks_like_what_is_not_there(
    pair: tuple[ApiProcess, Proxy],
) -> None:
    _, proxy = pair
    missing = proxy.get('/nowhere', X_Request_ID='mine-2')
    for path in ('/metrics', '/live', '/ready'):
        hidden = proxy.get(path, X_Request_ID='mine-2')
        assert (hidden.status_code, hidden.json()) == (404, missing.json())
        for name in ('content-type', 'cache-control', 'x-request-id'):
            assert hidden.headers[name] == missing.headers[name]


@pytest.mark.parametrize(
    'path',
    ['/metrics?x=1', '/%6Detrics', '//metrics', '/x/../live', '/metrics/', '/ready//', '/live%00'],
)
def test_no_spelling_leads_to_what_is_for_operators(
    pair: tuple[ApiProcess, Proxy], path: str
) -> None:
    _, proxy = pair
    # httpx would normalize the path
    connection = http.client.HTTPSConnection('127.0.0.1', proxy.port, context=proxy.context)
    with closing(connection):
        connection.request('GET', path, headers={'Host': NAME})
        assert connection.getresponse().status in (400, 404)


def test_error_of_the_service_goes_through_as_it_is(start_api: Callable) -> None:
    api = start_api(DATABASE_URL='host=/nowhere', API_POOL_TIMEOUT_S='0.2')
    sent = {'X-Request-ID': 'mine-4'}
    with Proxy(api.port) as proxy:
        here, there = (client.get(TOP, headers=sent) for client in (proxy.client, api.client))
    assert (here.status_code, here.content) == (503, there.content)
    for name in ('content-type', 'cache-control', 'retry-after'):
        assert here.headers[name] == there.headers[name]
