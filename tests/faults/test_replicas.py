"""The reports on streaming replicas: they share the load, and a lost one fails no request."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import psutil
import psycopg
import pytest

from tests.faults.load import Load, failures
from tests.support.postgres import cloned, program, suspend_server
from tests.support.rows import open_rows, run_function
from tests.support.service import BRIEF, TOP, ApiProcess, metric
from tests.support.waiting import DEADLINE_S, until, wait_for
from tools.embedded import FOLDER, EmbeddedServer, load, run_as_server

pytestmark = pytest.mark.slow
SPREAD = '&target_session_attrs=any&load_balance_hosts=random'


class Standby(EmbeddedServer):
    """A hot standby of another server, made with pg_basebackup.

    It gives way to its primary at once: a report in the way of what it replays is cancelled.
    """

    def __init__(self, primary: EmbeddedServer) -> None:
        self._primary = primary
        # a pg_basebackup of another version may write options that the server does not know
        super().__init__(
            primary_conninfo=primary.url(database='postgres'), max_standby_streaming_delay='0'
        )

    def initialize_database(self) -> None:
        """Copy the primary (called by the base class)."""
        run_as_server(
            program(self, 'pg_basebackup'),
            *('--pgdata', self.get_data_directory()),
            *('--dbname', self._primary.url(database='postgres')),
            *('--checkpoint', 'fast'),
            '--write-recovery-conf',
            '--no-sync',
        )

    def catch_up(self) -> None:
        """Wait until the standby has replayed everything that the primary has written."""
        with psycopg.connect(self._primary.url(), autocommit=True) as connection:
            [written] = connection.execute('select pg_current_wal_lsn()').fetchone()
        for _ in until():
            if value(self, 'select pg_last_wal_replay_lsn() >= %s::pg_lsn', written):
                return
        raise AssertionError('the standby does not follow')

    def promote(self) -> None:
        """Promote the standby to a primary."""
        assert value(self, 'select pg_promote(wait_seconds => %s)', DEADLINE_S)


def value(server: EmbeddedServer, sql: str, *values: object) -> object:
    """Run a query on a server; returns its only value."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        return connection.execute(sql, values or None).fetchone()[0]


def sessions(server: EmbeddedServer) -> int:
    """Return the number of the API's sessions on a server."""
    return value(
        server,
        'select count(*) from pg_stat_activity'
        " where application_name like 'membership-benefits-api/%'",
    )


def kill(server: EmbeddedServer) -> None:
    """Kill all processes of a server, like a power failure; `start` starts it again."""
    # all at once: a retry must not use a session that ends a moment later
    processes = suspend_server(server)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.child_process.wait(DEADLINE_S)
    psutil.wait_procs(processes, DEADLINE_S)
    server.child_process = None


def hosts(*servers: EmbeddedServer, user: str = 'postgres') -> str:
    """Return a URL with several servers, in this order."""
    folders = ','.join(server.base_dir for server in servers)
    return f'postgresql://{user}@/test?host={folders}&port=5432'


class Cluster(NamedTuple):
    """A primary with a few rows, and two standbys."""

    primary: EmbeddedServer
    one: Standby
    other: Standby


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    """Return a cluster; a test that stops a server must start it again."""
    with EmbeddedServer() as primary:
        load(primary.url(), 'schema.sql', 'indexes.sql')
        with open_rows(primary.url()) as rows:
            rows.benefit(1)
            rows.uses(1, '2024-07-01')
        with Standby(primary) as one, Standby(primary) as other:
            one.catch_up()
            other.catch_up()
            yield Cluster(primary, one, other)


def test_lost_standby_costs_no_request_and_is_used_again_when_it_is_back(
    cluster: Cluster, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=hosts(cluster.one, cluster.other) + SPREAD,
        API_WORKERS='2',
        API_POOL_LIFETIME_S='1',
    )
    with Load(api.url) as clients:
        for lost in (cluster.one, cluster.other):
            # connections are replaced continuously, so both servers get some
            wait_for(lambda: sessions(cluster.one) and sessions(cluster.other))
            clients.wait_for(80)
            kill(lost)
            clients.wait_for(80)
            lost.start()
    assert failures(clients.asked) == []


def test_report_that_a_standby_cancels_to_keep_up_runs_again(
    cluster: Cluster, start_api: Callable[..., ApiProcess]
) -> None:
    with cloned(cluster.primary) as url, psycopg.connect(url, autocommit=True) as writer:
        # a report waits for an advisory lock, while it holds the lock on the table that it reads
        writer.execute('alter table benefit_usage rename to quick')
        writer.execute(
            'create view benefit_usage as select quick.* from quick,'
            ' (select pg_advisory_xact_lock_shared(1)) as waited'
        )
        cluster.one.catch_up()
        on_standby = cluster.one.url(database=writer.info.dbname)
        api = start_api(DATABASE_URL=on_standby, API_WORKERS='1')
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        with (
            psycopg.connect(on_standby, autocommit=True) as holder,
            ThreadPoolExecutor(1) as clients,
        ):
            holder.execute('select pg_advisory_lock(1)')
            asking = clients.submit(api.get, TOP)
            wait_for(lambda: holder.execute(waiting).fetchone() == (1,))
            with writer.transaction():
                writer.execute('lock table quick in access exclusive mode')
            # to replay the lock, the standby must cancel the report
            cluster.one.catch_up()
            wait_for(lambda: metric(api, 'database_retries_total') == 1)
            holder.execute('select pg_advisory_unlock(1)')
            assert asking.result().status_code == 200
        api.stop()


def test_promoted_standby_is_picked_up(start_api: Callable[..., ApiProcess]) -> None:
    with EmbeddedServer() as primary:
        load(primary.url(), 'schema.sql')
        with psycopg.connect(primary.url()) as connection:
            connection.execute((FOLDER / 'readonly_role.sql').read_text())
        with Standby(primary) as standby:
            url = hosts(primary, standby, user='membership_benefits_api')
            api = start_api(DATABASE_URL=f'{url}&target_session_attrs=primary', **BRIEF)
            wait_for(lambda: api.get(TOP).text == '[]')
            standby.catch_up()
            kill(primary)
            assert api.get(TOP).status_code == 503
            standby.promote()
            with psycopg.connect(standby.url(), autocommit=True) as connection:
                connection.execute("insert into venue values (1, 'New')")
                [[expected]] = [run_function(connection, 'top_benefits')[:1]]
            wait_for(lambda: api.get('/ready').status_code == 200)
            assert api.get(TOP).json() == expected
            assert expected
