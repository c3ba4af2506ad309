"""The service runs without its database, and uses it again when it is back."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from tests.faults.load import Load, failures
from tests.support.rows import Rows
from tests.support.service import BRIEF, TOP, ApiProcess, metric
from tests.support.waiting import DEADLINE_S, wait_for
from tools.embedded import EmbeddedServer, load


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Return a server with the tables, which the test may stop and start."""
    with EmbeddedServer() as embedded:
        load(embedded.url(), 'schema.sql')
        yield embedded


@pytest.mark.slow
def test_outage_is_a_503_whose_reason_only_the_log_tells(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=f'{own_server.url()}&password=hunter2', **BRIEF)
    own_server.terminate()
    for path in (TOP, '/ready'):
        wait_for(lambda path=path: api.get(path).status_code == 503)
        answer = api.get(path)
        assert int(answer.headers['retry-after']) >= 1
        assert answer.json()['type'] == '/docs/problems/database-unavailable'
        for secret in ('host', 'socket', 'postgres', own_server.base_dir):
            assert secret not in answer.text
    assert api.get('/live').status_code == 200
    place = f'host={own_server.base_dir} '
    why = 'No such file or directory'
    assert any(why in line and place in line for line in api.output().splitlines())
    assert 'hunter2' not in api.output()
    own_server.start()
    wait_for(lambda: api.get('/ready').status_code == 200)
    assert api.get(TOP).json() == []


@pytest.mark.slow
def test_ended_parallel_worker_costs_no_request(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.benefit(1)
    for statement in (
        # many pages, so that each parallel process reads some
        'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
        " select 1, 1, timestamp '2024-07-01' from generate_series(1, 6000)",
        # a slow query in parallel, regardless of its cost
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
            httpx.get, f'{api.url}{TOP}?timestamp=2024-07-02', timeout=DEADLINE_S
        )
        wait_for(lambda: rows.connection.execute(end_workers).fetchone() != (0,))
        assert answer.result().status_code == 200
    assert metric(api, 'database_retries_total') == 1


@pytest.mark.slow
def test_restart_under_load_costs_no_request_that_comes_after_it(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=own_server.url(),
        API_WORKERS='2',
        # the pool tries to connect after 1, 2 and 4 s, so a request waits for at most half of this
        API_POOL_TIMEOUT_S='8',
    )
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("insert into venue values (1, 'One')")
        connection.execute("insert into person values (1, 'One')")
    with Load(api.url, clients=8) as clients:
        clients.wait_for(200)
        stopped = time.monotonic()
        own_server.child_process.send_signal(signal.SIGQUIT)  # immediate shutdown
        own_server.child_process.wait(DEADLINE_S)
        own_server.child_process = None
        wait_for(lambda: 503 in {asked.status for asked in clients.since(stopped)})
        own_server.start()
        back = time.monotonic()
        clients.wait_for(400)
    assert failures(clients.since(back)) == []
    assert {asked.status for asked in failures(clients.asked)} == {503}
    assert 'problem=database-unavailable cause=' in api.output()


def test_server_that_stops_answering_holds_no_request_for_ever(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='0.5', API_WORKERS='1')
    wait_for(lambda: api.get(TOP).status_code == 200)
    sessions = rows.connection.execute(
        "select pid from pg_stat_activity where application_name like 'membership-benefits-api/%'"
        ' and datname = current_database()'
    ).fetchall()
    for (pid,) in sessions:
        os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert httpx.get(api.url + TOP, timeout=DEADLINE_S).status_code == 504
        assert time.monotonic() - begun > 1.4  # the server has a second to cancel the statement
        assert api.get('/live').status_code == 200
    finally:
        for (pid,) in sessions:
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: api.get(TOP).status_code == 200)
