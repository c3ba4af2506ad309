"""The API lives without its database, and finds it again."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from db.embedded import EmbeddedServer, load
from tests.support import ApiProcess, until

REPORT = '/venues/top-benefits'


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Return a server of the test's own, with the tables, that it may stop and start."""
    with EmbeddedServer() as embedded:
        load(embedded.url(), 'schema.sql')
        yield embedded


def assert_unavailable(api: ApiProcess) -> None:
    answer = api.get(REPORT)
    assert answer.status_code == 503
    assert int(answer.headers['retry-after']) >= 1
    assert answer.headers['content-type'] == 'application/problem+json'
    assert answer.elapsed.total_seconds() < 4
    ready = api.get('/ready')
    assert ready.status_code == 503
    assert ready.elapsed.total_seconds() < 4
    assert api.get('/live').status_code == 200
    for text in (answer.text, ready.text):
        assert 'host' not in text
        assert 'socket' not in text


def assert_recovers(api: ApiProcess) -> None:
    for _ in until(10):
        if api.get('/ready').status_code == 200:
            break
    assert api.get('/ready').status_code == 200
    assert api.get(REPORT).json() == []


def test_starts_without_a_database_and_finds_it_later(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    own_server.terminate()
    api = start_api(DATABASE_URL=own_server.url())
    assert_unavailable(api)
    own_server.start()
    assert_recovers(api)


def test_restart_of_the_database_costs_nothing_that_comes_after_it(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=own_server.url())
    assert_recovers(api)
    own_server.terminate()
    own_server.start()
    for _ in range(20):
        assert api.get(REPORT).status_code == 200


def test_outage_ends_when_the_database_is_back(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=own_server.url())
    assert_recovers(api)
    own_server.terminate()
    assert_unavailable(api)
    own_server.start()
    assert_recovers(api)


def test_lost_backend_costs_no_request(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=own_server.url())
    assert_recovers(api)
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        [killed] = admin.execute(
            'select count(pg_terminate_backend(pid)) from pg_stat_activity'
            " where application_name like 'membership-benefits-api%'"
        ).fetchone()
    assert killed
    assert api.get(REPORT).status_code == 200


def test_log_of_an_outage_names_no_host_and_no_user(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    own_server.terminate()
    api = start_api(DATABASE_URL=f'{own_server.url()}&password=hunter2')
    assert_unavailable(api)
    for _ in until():
        if 'database unavailable' in api.output():
            break
    for secret in ('hunter2', 'postgres', own_server.base_dir):
        assert secret not in api.output()
