"""The API lives without its database, and finds it again."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from tests.faults.load import Load, failures
from tests.faults.replication import stop_immediately
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import BRIEF, ApiProcess, metric
from tests.support.waiting import DEADLINE_S, wait_for
from tools.embedded import EmbeddedServer, load

REPORT = '/venues/top-benefits'
# a request waits for a database that is away as BRIEF says, or for 8 s; libpq would for minutes
BOUNDED_S = 40


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
    assert answer.elapsed.total_seconds() < BOUNDED_S
    ready = api.get('/ready')
    assert ready.status_code == 503
    assert ready.elapsed.total_seconds() < BOUNDED_S
    assert api.get('/live').status_code == 200
    for text in (answer.text, ready.text):
        assert 'host' not in text
        assert 'socket' not in text


def assert_recovers(api: ApiProcess) -> None:
    wait_for(lambda: api.get('/ready').status_code == 200)
    assert api.get(REPORT).json() == []


@pytest.mark.slow
def test_starts_without_a_database_and_finds_it_later(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    own_server.terminate()
    api = start_api(DATABASE_URL=own_server.url(), **BRIEF)
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


@pytest.mark.slow
def test_outage_ends_when_the_database_is_back(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=own_server.url(), **BRIEF)
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


def test_ended_parallel_worker_costs_no_request(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.benefit(1)
    for statement in (
        # many pages, so that each process has some
        'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
        " select 1, 1, timestamp '2024-07-01' from generate_series(1, 6000)",
        # parallel, whatever it costs, and slow
        f'alter database {rows.connection.info.dbname} set parallel_setup_cost = 0',
        f'alter database {rows.connection.info.dbname} set parallel_tuple_cost = 0',
        'alter table benefit_usage rename to quick',
        'alter table quick set (parallel_workers = 2)',
        'drop index benefit_usage_benefit_id_usage_timestamp_idx',
        'drop index benefit_usage_person_id_benefit_id_usage_timestamp_idx',
        'create function slowly(integer) returns boolean language plpgsql stable parallel safe'
        " as 'begin perform pg_sleep(0.001); return true; end'",
        'create view benefit_usage as select * from quick where slowly(id)',
    ):
        rows.connection.execute(statement)
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1')
    end_workers = (
        'select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity'
        " where backend_type = 'parallel worker' and wait_event = 'PgSleep'"
        ' and datname = current_database()'
    )
    with ThreadPoolExecutor() as clients:
        answer = clients.submit(
            httpx.get, f'{api.url}{REPORT}?timestamp=2024-07-02', timeout=DEADLINE_S
        )
        wait_for(lambda: rows.connection.execute(end_workers).fetchone() != (0,))
        assert answer.result().status_code == 200
    assert metric(api, 'database_retries_total') == 1


@pytest.mark.slow
def test_log_of_an_outage_says_why_and_answers_do_not(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=f'{own_server.url()}&password=hunter2', API_WORKERS='1', **BRIEF)
    assert_recovers(api)
    own_server.terminate()
    assert_unavailable(api)
    place = f'host={own_server.base_dir} '
    why = 'No such file or directory'
    lines = [line for line in api.output().splitlines() if why in line and place in line]
    assert 'event="error connecting in ' in lines[0]
    assert 'hunter2' not in api.output()
    own_server.start()
    assert_recovers(api)


@pytest.mark.slow
def test_restart_under_load_costs_no_request_that_comes_after_it(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=own_server.url(),
        API_WORKERS='2',
        # it tries to connect after 1, 2 and 4 s, so whoever comes then has half of it left
        API_POOL_TIMEOUT_S='8',
    )
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("insert into venue values (1, 'One')")
        connection.execute("insert into person values (1, 'One')")
    with Load(api.url, clients=8) as clients:
        clients.wait_for(200)
        stopped = time.monotonic()
        stop_immediately(own_server)
        assert_unavailable(api)
        restarting = time.monotonic()
        own_server.start()
        back = time.monotonic()
        clients.wait_for(400)
    assert failures(clients.since(back)) == []
    assert len(clients.since(back)) > 300
    assert failures([asked for asked in clients.asked if asked.at < stopped - 1]) == []
    down = [asked for asked in clients.since(stopped) if asked.at < restarting]
    assert {asked.status for asked in down} <= {200, 503}
    assert max(asked.seconds for asked in down) < BOUNDED_S
    assert 'problem=database-unavailable cause=' in api.output()


@pytest.mark.slow
def test_cancelled_statement_is_not_tried_again(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url)
    with ThreadPoolExecutor(1) as clients, locked_uses(database_url):
        asking = clients.submit(api.get, '/venues/1/available-benefits?personId=1')
        wait_until_busy(rows)
        rows.connection.execute(
            'select pg_cancel_backend(pid) from pg_stat_activity'
            " where query like '-- name: available%' and datname = current_database()"
            " and state = 'active'"
        )
        answer = asking.result()
    assert answer.status_code == 504
    assert answer.json()['type'] == '/docs/problems/statement-timeout'
    assert 'benefits_api_database_retries_total 0.0' in api.get('/metrics').text


@pytest.mark.slow
def test_statement_that_ends_a_deadlock_runs_again(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    database = psycopg.conninfo.conninfo_to_dict(database_url)['dbname']
    # time enough for the other one to wait too, before the service's session looks for a deadlock
    rows.connection.execute(f"alter database {database} set deadlock_timeout = '15s'")
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='60')
    waiting = (
        'select relation::regclass::text from pg_locks where granted and pid ='
        " (select pid from pg_locks where relation = 'benefit_usage'::regclass and not granted)"
        " and relation in ('venue'::regclass, 'benefit'::regclass)"
    )
    with psycopg.connect(database_url) as other, ThreadPoolExecutor() as clients:
        other.execute("set deadlock_timeout = '1h'")
        other.execute('lock table benefit_usage')
        # which locks benefit before benefit_usage
        asking = clients.submit(api.get, '/venues/1/inactivity-periods')
        [held] = wait_for(lambda: rows.connection.execute(waiting).fetchone())
        other.execute(f'lock table {held}')  # which each of them waits for the other to give up
        other.rollback()
        assert asking.result().status_code == 200
    wait_for(lambda: metric(api, 'database_retries_total') == 1)


def test_server_that_stops_answering_holds_no_request_for_ever(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='0.5', API_WORKERS='1')
    wait_for(lambda: api.get(REPORT).status_code == 200)
    sessions = rows.connection.execute(
        "select pid from pg_stat_activity where application_name like 'membership-benefits-api/%'"
        ' and datname = current_database()'
    ).fetchall()
    for (pid,) in sessions:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert httpx.get(api.url + REPORT, timeout=DEADLINE_S).status_code == 504
        assert api.get('/live').status_code == 200
    finally:
        for (pid,) in sessions:
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: api.get(REPORT).status_code == 200)
