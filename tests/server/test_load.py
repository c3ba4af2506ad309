"""Many connections: workers share them, and /live responds within a second."""

import statistics
import time
from collections.abc import Callable

import httpx
import pytest

from tests.server.crowd import Crowd, ask, read
from tests.support.postgres import suspended
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import AVAILABLE, TOP, ApiProcess, connection_counts
from tests.support.waiting import DEADLINE_S, until, wait_for
from tools.embedded import EmbeddedServer, load


@pytest.mark.slow
def test_connections_opened_at_once_spread_over_the_workers(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    spreads = []
    # a busy machine may keep one worker from running, so any 20 rounds in a row count
    for _ in until():
        wait_for(lambda: connection_counts(api) == [0, 0])
        with Crowd(api.port) as crowd:
            for client in crowd.connect(16):
                ask(client, '/live')
                assert read(client)[0] == 200
            spreads.append(sorted(connection_counts(api)))
        if sum(max(spread) <= 10 for spread in spreads[-20:]) >= 18:
            break
    else:
        raise AssertionError(f'connections of two workers: {spreads}')
    assert all(sum(spread) == 16 for spread in spreads)


def assert_live_answers_within_a_second(api: ApiProcess) -> None:
    """Ask often, each time on a new connection."""
    seconds = []
    for _ in range(15):
        began = time.monotonic()
        assert httpx.get(f'{api.url}/live', timeout=DEADLINE_S).status_code == 200
        seconds.append(time.monotonic() - began)
    # a busy machine may delay some
    assert statistics.median(seconds) < 1


def test_live_answers_beside_many_clients_at_a_slow_report(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    timeouts = {'API_STATEMENT_TIMEOUT_S': '120', 'API_POOL_TIMEOUT_S': '120'}
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1', **timeouts)
    with Crowd(api.port) as crowd:
        with locked_uses(database_url):
            clients = crowd.connect(40)
            for number, client in enumerate(clients):
                # half of them share an answer, the others wait for a turn
                moment = f'?timestamp=2024-07-01T00:00:{number:02}' if number % 2 else ''
                ask(client, TOP + moment)
            wait_until_busy(rows, 'top')
            assert_live_answers_within_a_second(api)
        assert {read(client)[0] for client in clients} == {200}


@pytest.mark.slow
def test_live_answers_beside_many_clients_at_ready_while_the_database_is_silent(
    start_api: Callable[..., ApiProcess],
) -> None:
    with EmbeddedServer() as own:
        load(own.url(), 'schema.sql')
        api = start_api(DATABASE_URL=own.url(), API_WORKERS='1', API_STATEMENT_TIMEOUT_S='5')
        wait_for(lambda: api.get('/ready').status_code == 200)
        with suspended(own), Crowd(api.port) as crowd:
            for client in crowd.connect(400):
                ask(client, '/ready')
            assert_live_answers_within_a_second(api)
            wait_for(lambda: api.get('/ready').status_code == 503)
        wait_for(lambda: api.get('/ready').status_code == 200)


@pytest.mark.slow
def test_live_answers_beside_slow_and_idle_connections(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.many_venues()
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1')
    with Crowd(api.port) as crowd:
        crowd.connect(400)
        crowd.drip(crowd.connect(100), AVAILABLE)
        for client in crowd.connect(50):
            ask(client, TOP)
        # the first of them have large answers now, which they do not read
        assert api.get(TOP).status_code == 200
        assert_live_answers_within_a_second(api)
        assert api.get(AVAILABLE).status_code == 200
