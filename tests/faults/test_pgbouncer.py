"""The reports through a real PgBouncer in transaction mode, with few server connections."""

import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.daemon import Daemon
from tests.support.machine import system_program
from tests.support.postgres import run_file
from tests.support.project import ROOT
from tests.support.rows import open_rows
from tests.support.service import PATHS, ApiProcess, settled_output
from tests.support.waiting import wait_for
from tools.embedded import EmbeddedServer, load

pytestmark = pytest.mark.slow
ROLE = 'membership_benefits_api'
# the settings of db/scaling.md for transaction mode
TRANSACTION_MODE = {'API_SESSION_SETTINGS': 'false', 'API_PREPARE': 'false'}
# settings that PgBouncer sets on a session for each client
OF_PGBOUNCER = {
    'application_name',
    'client_encoding',
    'DateStyle',
    'standard_conforming_strings',
    'TimeZone',
}


@pytest.fixture(scope='module')
def bouncer() -> Iterator[Daemon]:
    """Return a PgBouncer that is not started."""
    with Daemon('pgbouncer', 'pgbouncer') as daemon:
        yield daemon


@pytest.fixture(scope='module')
def own_server(bouncer: Daemon) -> Iterator[EmbeddedServer]:
    """Return a server with a time zone far from UTC, a few rows, and the role of the file."""
    with EmbeddedServer(timezone='Asia/Kathmandu') as server:
        load(server.url(), 'schema.sql')
        with open_rows(server.url()) as rows:
            rows.benefit(1)
            rows.uses(1, '2026-01-01T12:00')
        run_file(server, ROOT / 'db' / 'readonly_role.sql')
        yield server


@pytest.fixture
def start_bouncer(own_server: EmbeddedServer, bouncer: Daemon) -> Iterator[Callable[..., str]]:
    """Return a function that starts PgBouncer with settings, and returns the database's URL."""

    def start(**settings: object) -> str:
        lines = {
            'listen_addr': '127.0.0.1',
            'listen_port': bouncer.port,
            'unix_socket_dir': '',
            'auth_type': 'trust',
            'auth_file': bouncer.folder / 'users',
            'pool_mode': 'transaction',
            **settings,
        }
        (bouncer.folder / 'users').write_text(f'"{ROLE}" ""\n')
        (bouncer.folder / 'ini').write_text(
            f'[databases]\n* = host={own_server.base_dir} port=5432\n[pgbouncer]\n'
            + ''.join(f'{name} = {value}\n' for name, value in lines.items())
        )
        bouncer.start(str(bouncer.folder / 'ini'))
        return f'postgresql://{ROLE}@127.0.0.1:{bouncer.port}/test'

    yield start
    bouncer.stop()


@pytest.fixture
def admin(own_server: EmbeddedServer) -> Iterator[psycopg.Connection]:
    """Return a session of the administrator, directly on the server."""
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        yield connection


def sessions(admin: psycopg.Connection) -> int:
    """Return the number of the role's sessions on the server."""
    query = 'select count(*) from pg_stat_activity where usename = %s'
    return admin.execute(query, [ROLE]).fetchone()[0]


def assert_all_work(api: ApiProcess, own_server: EmbeddedServer) -> None:
    """Request all reports with many concurrent clients, as of days with different results."""
    assert 'cannot be checked' not in api.output()  # the check at the start has run
    paths = [
        f'{path}{"&" if "?" in path else "?"}timestamp=2026-09-{day:02}'
        for day in range(1, 21)
        for path in PATHS
    ]
    with ThreadPoolExecutor(12) as clients:
        assert {answer.status_code for answer in clients.map(api.get, paths)} == {200}
    wait_for(lambda: api.get('/ready').status_code == 200)
    assert 'level=error' not in settled_output(api)
    assert 'prepared statement' not in own_server.read_bootlog()


def test_more_clients_than_sessions(
    own_server: EmbeddedServer,
    start_bouncer: Callable[..., str],
    start_api: Callable[..., ApiProcess],
    admin: psycopg.Connection,
) -> None:
    url = start_bouncer(default_pool_size=2)
    api = start_api(DATABASE_URL=url, API_WORKERS='2', **TRANSACTION_MODE)
    assert_all_work(api, own_server)
    assert 1 <= sessions(admin) <= 2


def test_start_checks_the_files_through_it(
    start_bouncer: Callable[..., str],
    start_api: Callable[..., ApiProcess],
    admin: psycopg.Connection,
) -> None:
    url = start_bouncer(default_pool_size=1)
    admin.execute('alter table benefit rename column title to caption')
    try:
        with pytest.raises(
            AssertionError, match=r'error: /.*/available_benefits\.sql line \d+: col'
        ):
            start_api(DATABASE_URL=url, **TRANSACTION_MODE)
    finally:
        admin.execute('alter table benefit rename column caption to title')
    # the rejected statement changes nothing in the session, which is used again
    assert start_api(DATABASE_URL=url, **TRANSACTION_MODE).get(PATHS[0]).status_code == 200


def test_sessions_have_the_settings_of_the_role_and_none_of_ours(
    start_bouncer: Callable[..., str], start_api: Callable[..., ApiProcess]
) -> None:
    url = start_bouncer(default_pool_size=1)
    api = start_api(DATABASE_URL=url, API_STATEMENT_TIMEOUT_S='7', **TRANSACTION_MODE)
    for path in PATHS:
        assert api.get(path).status_code == 200
    # the pool has one session, so this is the one that the API used
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        found = connection.execute('select name, setting, source from pg_settings').fetchall()
        prepared = connection.execute('select count(*) from pg_prepared_statements').fetchone()
    assert ('statement_timeout', '5000', 'user') in found
    assert {name for name, _, source in found if source == 'session'} <= OF_PGBOUNCER
    assert prepared == (0,)


def test_lost_session_and_restart_cost_nothing_that_comes_after_them(
    start_bouncer: Callable[..., str],
    start_api: Callable[..., ApiProcess],
    bouncer: Daemon,
    admin: psycopg.Connection,
) -> None:
    url = start_bouncer(default_pool_size=1)
    api = start_api(DATABASE_URL=url, API_WORKERS='1', **TRANSACTION_MODE)
    assert api.get(PATHS[0]).status_code == 200
    wait_for(lambda: sessions(admin) == 1)  # those of earlier PgBouncers have ended
    query = 'select application_name, pg_terminate_backend(pid) from pg_stat_activity'
    [(name, was_killed)] = admin.execute(f'{query} where usename = %s', [ROLE]).fetchall()
    assert was_killed
    assert name.startswith('membership-benefits-api/')
    assert api.get(PATHS[0]).status_code == 200
    bouncer.stop()
    start_bouncer(default_pool_size=1)
    for path in PATHS:
        assert api.get(path).status_code == 200


def test_prepared_statements_through_a_pgbouncer_that_knows_them(
    own_server: EmbeddedServer,
    start_bouncer: Callable[..., str],
    start_api: Callable[..., ApiProcess],
    admin: psycopg.Connection,
) -> None:
    command = [system_program('pgbouncer', 'pgbouncer'), '--version']
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    version = re.search(r'PgBouncer (\d+)\.(\d+)', shown)
    if tuple(map(int, version.groups())) < (1, 21):
        pytest.skip(f'{version[0]} does not know prepared statements; 1.21 and newer do')
    url = start_bouncer(default_pool_size=2, max_prepared_statements=10)
    api = start_api(DATABASE_URL=url, API_SESSION_SETTINGS='false', API_WORKERS='2')
    assert_all_work(api, own_server)
    wait_for(lambda: 1 <= sessions(admin) <= 2)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        query = 'select statement from pg_prepared_statements'
        assert [s for (s,) in connection.execute(query) if s.startswith('-- name: ')]
