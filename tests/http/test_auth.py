"""Bearer tokens: which requests need one, and what a request without a valid one gets."""

import hashlib
import json
import re
from collections.abc import Callable

import falcon.testing
import pytest

from api import OPENAPI
from api.app import create_app
from api.config import Settings
from tests.support.machine import free_port
from tests.support.service import PATHS, ApiProcess, settled_output

TOKEN = 'a-token-that-nobody-guesses'
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
OTHER = hashlib.sha256(b'another').hexdigest()
GUARDED = [*PATHS, '/metrics']
OPEN = ['/live', '/ready', '/', '/openapi.json', '/docs', '/docs/problems/unauthorized']


@pytest.fixture(scope='module')
def guarded(sample_url: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ApiProcess]:
    """Return an API process that requires a token."""
    api = ApiProcess(
        tmp_path_factory.mktemp('guarded'),
        {
            'DATABASE_URL': sample_url,
            'API_TOKEN_SHA256': f'{OTHER}, {HASH}',
            'API_CORS_ORIGINS': 'https://a.example',
        },
    )
    yield api
    api.stop()


def test_known_token_is_let_in(guarded: ApiProcess) -> None:
    for path in GUARDED:
        for token, scheme in [(TOKEN, 'Bearer'), (TOKEN, 'bearer'), ('another', 'Bearer')]:
            answer = guarded.get(path, headers={'Authorization': f'{scheme} {token}'})
            assert answer.status_code == 200


def test_hash_counts_to_its_last_digit() -> None:
    almost = HASH[:-1] + ('0' if HASH[-1] != '0' else '1')
    app = create_app(Settings(database_url='host=/nowhere', token_sha256=(almost,)))
    client = falcon.testing.TestClient(app, headers={'Authorization': f'Bearer {TOKEN}'})
    assert client.simulate_get('/metrics').status_code == 401


def test_two_tokens_in_two_headers_are_none(guarded: ApiProcess) -> None:
    header = ('Authorization', f'Bearer {TOKEN}')
    assert guarded.get('/metrics', headers=[header]).status_code == 200
    assert guarded.get('/metrics', headers=[header, header]).status_code == 401


@pytest.mark.parametrize('method', ['GET', 'HEAD', 'POST'])
@pytest.mark.parametrize('path', GUARDED)
def test_request_without_a_token_is_told_what_is_missing(
    guarded: ApiProcess, path: str, method: str
) -> None:
    answer = guarded.client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers['www-authenticate'] == 'Bearer realm="membership-benefits"'
    assert answer.headers['content-type'] == 'application/problem+json'
    assert answer.headers['cache-control'] == 'no-store'
    assert 'server-timing' not in answer.headers  # no connection was used
    if method != 'HEAD':
        assert answer.json()['type'] == '/docs/problems/unauthorized'


@pytest.mark.parametrize(
    'header',
    [
        *('', 'Bearer', TOKEN, f'Basic {TOKEN}', f'Bearer {HASH}', b'Bearer \xff\xfe'),
        *(f'Bearer {TOKEN}x', f'Bearer {TOKEN[:-1]}'),
    ],
)
def test_other_credentials_are_no_token(guarded: ApiProcess, header: str | bytes) -> None:
    assert guarded.get('/metrics', headers={'Authorization': header}).status_code == 401


def test_what_holds_no_data_stays_open(guarded: ApiProcess) -> None:
    for path in OPEN:
        assert guarded.get(path, follow_redirects=True).status_code == 200


def test_new_resource_wants_a_token_unless_it_is_public() -> None:
    class New:
        def on_get(self, _req: falcon.Request, _resp: falcon.Response) -> None:
            """Respond without a body."""

    class Public(New):
        is_public = True

    app = create_app(Settings(database_url='host=/nowhere', token_sha256=(HASH,)))
    app.add_route('/new', New())
    app.add_route('/public', Public())
    client = falcon.testing.TestClient(app)
    assert client.simulate_get('/new').status_code == 401
    headers = {'Authorization': f'Bearer {TOKEN}'}
    assert client.simulate_get('/new', headers=headers).status_code == 200
    assert client.simulate_get('/public').status_code == 200


def test_contract_tells_what_stays_open() -> None:
    document = json.loads(OPENAPI.read_bytes())
    assert document['security'] == [{}, {'token': []}]
    told = {path for path, item in document['paths'].items() if item['get'].get('security') == []}
    assert told == {path.replace('unauthorized', '{kind}') for path in OPEN}


def test_token_comes_before_the_parameters(guarded: ApiProcess) -> None:
    assert guarded.get('/venues/x/inactivity-periods').status_code == 401


def test_answers_are_for_nobody_else(guarded: ApiProcess) -> None:
    for path in PATHS:
        answer = guarded.get(path, headers={'Authorization': f'Bearer {TOKEN}'})
        assert answer.headers['cache-control'].startswith('private')


def test_browser_may_ask_whether_it_may_send_a_token(guarded: ApiProcess) -> None:
    answer = guarded.client.options(
        GUARDED[0],
        headers={
            'Origin': 'https://a.example',
            'Access-Control-Request-Method': 'GET',
            'Access-Control-Request-Headers': 'authorization',
        },
    )
    assert answer.status_code == 200
    assert 'authorization' in answer.headers['access-control-allow-headers'].lower()


def test_log_holds_no_token(guarded: ApiProcess) -> None:
    guarded.get(GUARDED[0], headers={'Authorization': f'Bearer {TOKEN}'})
    guarded.get(GUARDED[0], headers={'Authorization': 'Bearer a-wrong-one'})
    output = settled_output(guarded)
    assert 'problem=unauthorized' in output
    for secret in (TOKEN, HASH, 'a-wrong-one'):
        assert secret not in output


@pytest.mark.parametrize(
    ('settings', 'warns'),
    [
        ({'API_HOST': '0.0.0.0'}, True),
        ({'API_HOST': '0.0.0.0', 'API_TOKEN_SHA256': HASH}, False),
    ],
)
def test_open_address_without_tokens_is_one_warning(
    sample_url: str, start_api: Callable, settings: dict[str, str], warns: bool
) -> None:
    settings |= {'API_PORT': str(free_port()), 'API_LOG_LEVEL': 'warning'}
    api = start_api(DATABASE_URL=sample_url, **settings)
    assert api.get('/live').status_code == 200
    api.stop()
    assert len(re.findall('no token is set', api.output())) == warns
    assert len(api.output().splitlines()) == warns
