"""Connections: set-up, timeouts, and a broken connection does not fail a request."""

import gc
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.waiting import wait_c
from psycopg_pool import PoolTimeout

from api.config import Settings
from api.database import connection
from api.database.connection import LAST_ANSWERS, Connection, connection_parameters
from api.database.pool import Answer, Pool
from api.database.queries import FOLDER, load_query
from api.telemetry import metrics
from api.telemetry.metrics import Timings
from tests.database.pools import open_pool, patient
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.waiting import DEADLINE_S, wait_for

QUERY = load_query(FOLDER / 'available_benefits.sql')
OURS = (
    "from pg_stat_activity where application_name like 'membership-benefits-api/%'"
    ' and datname = current_database()'
)


def fetch(pool: Pool) -> Answer:
    """Ask what is available to person 1 at venue 1."""
    return pool.fetch(QUERY, {'venue_id': 1, 'person_id': 1, 'timestamp': None}, Timings())


@contextmanager
def connected(url: str, **settings: object) -> Iterator[Connection]:
    """Connect as the pool does."""
    configured = Settings(database_url=url, **settings)
    with Connection.connect(**connection_parameters(configured)) as opened:
        opened.set_up(configured)
        yield opened


def test_connection_of_the_pool_is_set_up_as_configured(database_url: str) -> None:
    names = ('statement_timeout', 'timezone', 'transaction_read_only', 'client_encoding')
    url = f'{database_url}&client_encoding=LATIN1&options=-c%20timezone%3DAsia/Kathmandu'
    settings = Settings(database_url=url, statement_timeout_s=7)
    with open_pool(settings) as pool, pool._pool.connection() as opened:
        found = [opened.execute(f'show {name}').fetchone()[0] for name in names]
    assert found == ['7s', 'UTC', 'on', 'UTF8']


def test_attempt_that_times_out_leaves_no_connection() -> None:
    with socket.create_server(('127.0.0.1', 0)) as silent:
        silent.settimeout(DEADLINE_S)
        address = {'host': '127.0.0.1', 'port': silent.getsockname()[1]}
        gc.disable()  # it would close the connection, sooner or later
        try:
            with pytest.raises(psycopg.OperationalError, match='timeout expired'):
                Connection.connect(**address, connect_timeout=2)
            with silent.accept()[0] as accepted:
                accepted.settimeout(DEADLINE_S)
                while accepted.recv(1024):
                    pass
        finally:
            gc.enable()


def test_server_cancels_in_time_and_the_connection_stays(database_url: str) -> None:
    with connected(database_url, statement_timeout_s=0.5) as opened:
        opened.patience_s = DEADLINE_S
        for _ in range(5):
            with pytest.raises(psycopg.errors.QueryCanceled, match='statement timeout'):
                opened.execute('select pg_sleep(60)')


def test_statement_may_be_larger_than_the_buffers(database_url: str) -> None:
    with connected(database_url) as opened:
        [length] = opened.execute(f"select length('{'x' * 5_000_000}')").fetchone()
    assert length == 5_000_000


def test_other_requests_go_on_at_once_if_answers_come_late(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[None] = []

    def wait_alone(*arguments: Any) -> Any:
        waits.append(None)
        return wait_c(*arguments)

    monkeypatch.setattr(connection, 'wait_c', wait_alone)
    monkeypatch.setattr(connection, 'QUICK_S', DEADLINE_S)
    with connected(database_url) as opened:
        waits.clear()
        opened.execute('select 1')
        assert len(waits) == 1  # no other request goes on meanwhile
        monkeypatch.setattr(connection, 'QUICK_S', 0.005)
        for _ in range(LAST_ANSWERS):
            opened.execute('select pg_sleep(0.01)')
        assert len(waits) == 1 + LAST_ANSWERS
        # from now on, other requests go on, until an answer comes quickly
        monkeypatch.setattr(connection, 'QUICK_S', DEADLINE_S)
        opened.execute('select 1')
        assert len(waits) == 1 + LAST_ANSWERS
        opened.execute('select 1')
        assert len(waits) == 2 + LAST_ANSWERS


def retries() -> float:
    """Return how many statements ran again in this process."""
    return metrics.retries._value.get()


def end_connections(rows: Rows) -> None:
    """End all of the pool's connections on the server."""
    rows.connection.execute(f'select pg_terminate_backend(pid) {OURS}')
    wait_for(lambda: rows.connection.execute(f'select 1 {OURS}').fetchone() is None)


def test_connections_that_break_at_the_same_time_cost_no_request(
    rows: Rows, database_url: str
) -> None:
    with open_pool(patient(database_url)) as pool, ThreadPoolExecutor() as clients:
        before = retries()
        with locked_uses(database_url):
            answers: list[Future[Answer]] = [clients.submit(fetch, pool) for _ in range(4)]
            wait_until_busy(rows, count=4)
            rows.connection.execute(f'select pg_terminate_backend(pid) {OURS}')
            wait_for(lambda: retries() == before + 4)
        assert [bytes(answer.result(DEADLINE_S)[0]) for answer in answers] == [b'[]'] * 4
        # idle ones: the first that is found broken drains the pool
        wait_for(lambda: pool._pool.get_stats()['pool_available'] == 4)
        end_connections(rows)
        for _ in range(8):
            assert bytes(fetch(pool)[0]) == b'[]'
        assert retries() == before + 5


def test_no_connection_is_not_taken_for_a_busy_pool() -> None:
    settings = Settings(database_url='host=/nowhere', pool_max_waiting=1, pool_timeout_s=DEADLINE_S)
    with open_pool(settings) as pool, ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(fetch, pool)
        wait_for(lambda: pool._pool.get_stats()['requests_waiting'] == 1)
        for refused in (lambda: fetch(pool), pool.ping):
            with pytest.raises(PoolTimeout):
                refused()
        pool._pool.close()
        with pytest.raises(psycopg.OperationalError):
            waiting.result(DEADLINE_S)


@pytest.mark.parametrize(
    'failure',
    [
        'perform pg_terminate_backend(pg_backend_pid())',
        "raise serialization_failure using message = 'again'",
        "raise deadlock_detected using message = 'again'",
    ],
    ids=['connection lost', '40001', '40P01'],
)
def test_statement_that_fails_twice_is_not_run_again(
    rows: Rows, database_url: str, failure: str
) -> None:
    rows.benefit(1)
    for statement in (
        'create sequence runs',
        'create function fail() returns boolean language plpgsql as'
        f" $$ begin perform nextval('runs'); {failure}; return true; end $$",
        'alter table benefit rename to benefit_rows',
        'create view benefit as select * from benefit_rows where fail()',
    ):
        rows.connection.execute(statement)
    # a sequence is not for connections that only read
    with open_pool(patient(database_url, session_settings=False)) as pool:
        with pytest.raises(psycopg.OperationalError):
            fetch(pool)
        assert rows.connection.execute('select last_value from runs').fetchone() == (2,)
        rows.connection.execute('create or replace view benefit as select * from benefit_rows')
        assert bytes(fetch(pool)[0]).startswith(b'[{')
