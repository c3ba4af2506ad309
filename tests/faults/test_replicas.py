"""The reports on streaming replicas: all answer, the load spreads, and a lost one costs nothing."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg
import pytest

from tests.faults.load import Load, failures
from tests.faults.replication import (
    Standby,
    hosts,
    kill,
    sessions,
    stop_immediately,
    value,
)
from tests.support.postgres import cloned
from tests.support.rows import run_function
from tests.support.service import BRIEF, ApiProcess, metric
from tests.support.waiting import wait_for
from tools.embedded import FOLDER, EmbeddedServer, load

REPORTS = [
    '/venues/top-benefits',
    '/venues/1/available-benefits?personId=1',
    '/venues/1/inactivity-periods',
]
# independent choices of a host: that all are the same happens once in 2 ** 23 runs
CHOICES = 24
SPREAD = '&target_session_attrs=any&load_balance_hosts=random'
READY_S = 30


class Cluster(NamedTuple):
    """A primary with the sample data, and two standbys."""

    primary: EmbeddedServer
    one: Standby
    other: Standby


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    """Return a cluster; whoever ends a server of it starts it again."""
    with EmbeddedServer() as primary:
        load(primary.url(), 'schema.sql', 'sample_data.sql', 'indexes.sql')
        with Standby(primary) as one, Standby(primary) as other:
            one.catch_up()
            other.catch_up()
            yield Cluster(primary, one, other)


YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date()


def path(number: int) -> str:
    """Return what the clients of a load ask for: each for something that the others do not."""
    return [
        f'/venues/{1 + number % 20}/inactivity-periods',
        f'/venues/1/available-benefits?personId={1 + number % 20}',
        f'/venues/top-benefits?timestamp={YESTERDAY}T12:00:{number % 60:02}',
    ][number % 3]


def answers(api: ApiProcess, timestamp: str) -> list[str]:
    found = []
    for report in REPORTS:
        answer = api.get(httpx.URL(report).copy_add_param('timestamp', timestamp))
        assert answer.status_code == 200, answer.text
        found.append(answer.text)
    return found


def test_standby_answers_every_report_as_the_primary_does(
    cluster: Cluster, start_api: Callable[..., ApiProcess]
) -> None:
    for standby in (cluster.one, cluster.other):
        assert value(standby, 'select pg_is_in_recovery()')
    on_primary = start_api(DATABASE_URL=cluster.primary.url(), API_WORKERS='1')
    on_standby = start_api(DATABASE_URL=cluster.one.url(), API_WORKERS='1')
    assert 'level=warning' not in on_standby.output()
    assert on_standby.get('/ready').status_code == 200
    # the sample data is relative to now
    recently = (datetime.now(UTC) - timedelta(days=9)).isoformat()
    assert answers(on_standby, recently) == answers(on_primary, recently)
    for path in REPORTS:
        assert on_standby.get(path).status_code == 200
    assert sessions(cluster.one)


def test_load_spreads_over_the_standbys(
    cluster: Cluster, start_api: Callable[..., ApiProcess], tmp_path: Path
) -> None:
    # a worker needs one connection only for a database that answers at once
    for file in FOLDER.joinpath('functions').glob('*.sql'):
        slow = file.read_text().replace(';\n', '\ncross join (select pg_sleep(0.01)) as slow;\n')
        (tmp_path / file.name).write_text(slow)
    api = start_api(
        API_FUNCTIONS=str(tmp_path),
        DATABASE_URL=hosts(cluster.one, cluster.other) + SPREAD,
        API_WORKERS='1',
        API_POOL_SIZE=str(CHOICES),
        API_SLOW_REPORTS_AT_ONCE=str(CHOICES),
    )
    # as many clients as connections, so that the pool grows
    with Load(api.url, path, clients=2 * CHOICES) as clients:
        wait_for(lambda: sessions(cluster.one) + sessions(cluster.other) >= CHOICES)
    assert failures(clients.asked) == []
    assert sessions(cluster.one)
    assert sessions(cluster.other)


@pytest.mark.slow
def test_prefer_standby_leaves_the_primary_alone_until_no_standby_is_left(
    cluster: Cluster, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=hosts(*cluster) + '&target_session_attrs=prefer-standby',
        API_WORKERS='1',
        API_POOL_TIMEOUT_S=str(READY_S),
    )
    assert api.get(REPORTS[0]).status_code == 200
    assert sessions(cluster.one) + sessions(cluster.other)
    # but who has only asked it what it is, and leaves
    wait_for(lambda: not sessions(cluster.primary))
    try:
        kill(cluster.one)
        assert api.get(REPORTS[0]).status_code == 200
        assert sessions(cluster.other)
        wait_for(lambda: not sessions(cluster.primary))
        kill(cluster.other)
        assert api.get(REPORTS[0]).status_code == 200
        assert sessions(cluster.primary)
    finally:
        cluster.one.start()
        cluster.other.start()


@pytest.mark.slow
@pytest.mark.parametrize('end', [kill, stop_immediately])
def test_lost_standby_costs_no_request_and_is_used_again_when_it_is_back(
    cluster: Cluster, start_api: Callable[..., ApiProcess], end: Callable[[EmbeddedServer], None]
) -> None:
    api = start_api(
        DATABASE_URL=hosts(cluster.one, cluster.other) + SPREAD,
        API_WORKERS='2',
        API_POOL_LIFETIME_S='1',
        API_POOL_TIMEOUT_S=str(READY_S),
        API_STATEMENT_TIMEOUT_S=str(READY_S),
    )
    with Load(api.url, path) as clients:
        for lost in (cluster.one, cluster.other):
            # connections are replaced all the time, so both get some sooner or later
            wait_for(lambda: sessions(cluster.one) and sessions(cluster.other))
            clients.wait_for(80)
            end(lost)
            clients.wait_for(80)
            lost.start()
    assert failures(clients.asked) == []


def test_session_that_a_lost_standby_broke_costs_no_request(
    cluster: Cluster, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=hosts(cluster.one, cluster.other),
        API_WORKERS='1',
        API_POOL_TIMEOUT_S=str(READY_S),
    )
    with Load(api.url, path, clients=8):
        wait_for(lambda: sessions(cluster.one) == 4)
    kill(cluster.one)
    try:
        for _ in range(8):
            assert api.get(REPORTS[1]).status_code == 200
        assert metric(api, 'database_retries_total')
        assert sessions(cluster.other)
    finally:
        cluster.one.start()


def test_report_that_a_standby_cancels_to_keep_up_runs_again(
    cluster: Cluster, start_api: Callable[..., ApiProcess]
) -> None:
    with (
        cloned(cluster.primary) as url,
        Standby(cluster.primary, max_standby_streaming_delay='0') as standby,
        psycopg.connect(url, autocommit=True) as writer,
    ):
        database = writer.info.dbname
        # a report waits for an advisory lock, while it holds the lock on the table that it reads
        writer.execute('alter table benefit_usage rename to quick')
        writer.execute(
            'create view benefit_usage as select quick.* from quick,'
            ' (select pg_advisory_xact_lock_shared(1)) as waited'
        )
        standby.catch_up()
        api = start_api(
            DATABASE_URL=standby.url(database=database),
            API_WORKERS='1',
            API_STATEMENT_TIMEOUT_S=str(READY_S),
        )
        with psycopg.connect(standby.url(database=database), autocommit=True) as holder:

            def waiting() -> int:
                return holder.execute(
                    "select count(*) from pg_locks where locktype = 'advisory' and not granted"
                ).fetchone()[0]

            holder.execute('select pg_advisory_lock(1)')
            found: list[httpx.Response] = []
            asking = threading.Thread(target=lambda: found.append(api.get(REPORTS[1])))
            asking.start()
            wait_for(waiting)
            with writer.transaction():
                writer.execute('lock table quick in access exclusive mode')
            # the standby replays the lock, for which it has to cancel the report
            standby.catch_up()
            wait_for(lambda: metric(api, 'database_retries_total') == 1)
            wait_for(waiting)
            holder.execute('select pg_advisory_unlock(1)')
            asking.join()
            assert found[0].status_code == 200
        api.stop()


@pytest.mark.slow
def test_promoted_standby_is_picked_up(start_api: Callable[..., ApiProcess]) -> None:
    with EmbeddedServer() as primary:
        load(primary.url(), 'schema.sql')
        with psycopg.connect(primary.url()) as connection:
            connection.execute((FOLDER / 'readonly_role.sql').read_text())
        with Standby(primary) as standby:
            url = hosts(primary, standby, user='membership_benefits_api')
            api = start_api(DATABASE_URL=f'{url}&target_session_attrs=primary', **BRIEF)
            wait_for(lambda: api.get(REPORTS[0]).text == '[]')
            standby.catch_up()
            kill(primary)
            assert api.get(REPORTS[0]).status_code == 503
            standby.promote()
            with psycopg.connect(standby.url(), autocommit=True) as connection:
                connection.execute("insert into venue values (1, 'New')")
                [[expected]] = [run_function(connection, 'top_benefits')[:1]]
            wait_for(lambda: api.get('/ready').status_code == 200)
            assert api.get(REPORTS[0]).json() == expected
            assert expected


def test_read_write_refuses_the_read_only_role(cluster: Cluster) -> None:
    with psycopg.connect(cluster.primary.url()) as connection:
        connection.execute((FOLDER / 'readonly_role.sql').read_text())
    url = hosts(cluster.primary, user='membership_benefits_api')
    psycopg.connect(f'{url}&target_session_attrs=primary').close()
    with pytest.raises(psycopg.OperationalError, match='read-only'):
        psycopg.connect(f'{url}&target_session_attrs=read-write')
