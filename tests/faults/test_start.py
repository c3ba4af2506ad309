"""A start: what may pass is waited for while the service serves; what cannot is told at once."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from tests.support import (
    BRIEF,
    DEADLINE_S,
    READY_FOR_QUERY,
    ROOT,
    SAYS_WHERE_IT_IS,
    ApiProcess,
    GuardedServer,
    Rows,
    client_of_each_worker,
    end_of,
    locked_uses,
    patient_environment,
    reason,
    run_check,
    wait_for,
)
from tools.embedded import EmbeddedServer, load

TOP = '/venues/top-benefits'
# without the statement timeout of the server, nobody but the service itself ends a statement
UNBOUNDED = {'API_SESSION_SETTINGS': 'false'}
CHECKS_THAT_WAIT = (
    "select count(*) from pg_stat_activity where application_name like 'membership%/0'"
    " and wait_event_type = 'Lock'"
)


class Muzzle:
    """A way to a server that passes a login, and then nothing any more: a server gone silent.

    Attributes:
        url: How the database is reached through it.
        is_silent: Set as soon as somebody waits.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = f'{server.base_dir}/tmp/.s.PGSQL.5432'
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._open: list[socket.socket] = [self._listener]
        self.url = f'postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}/test'
        self.is_silent = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._open.append(client)
                threading.Thread(target=self._let_in, args=[client], daemon=True).start()

    def _let_in(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._server)
            said = b''
            while READY_FOR_QUERY not in said:
                # encryption is asked for first; what is answered then is a letter
                server.sendall(client.recv(4096))
                said = server.recv(4096)
                client.sendall(said)
            client.recv(4096)
            self.is_silent.set()
            client.recv(4096)

    def __enter__(self) -> 'Muzzle':
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def silent(server: EmbeddedServer) -> Iterator[Muzzle]:
    """Return a way to the server that goes silent after the login."""
    with Muzzle(server) as muzzle:
        yield muzzle


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Return a server of the test's own, without tables."""
    with EmbeddedServer(max_prepared_transactions='1') as embedded:
        yield embedded


@pytest.mark.parametrize('settings', [{}, UNBOUNDED], ids=['default', 'unbounded'])
def test_lock_over_the_check_is_waited_for(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess], settings: dict[str, str]
) -> None:
    with locked_uses(database_url):
        api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='3', **settings)
        assert api.get('/live').status_code == 200
        assert re.search(r'cannot be checked: \S+\.sql: .*\(database clone_\d+ on ', api.output())
    assert api.get(TOP).status_code == 200
    assert api.stop() == 0


@pytest.mark.parametrize('settings', [{}, UNBOUNDED], ids=['default', 'unbounded'])
def test_check_on_demand_tells_of_a_lock(
    rows: Rows, database_url: str, settings: dict[str, str]
) -> None:
    with locked_uses(database_url):
        checked = run_check(database_url, API_STATEMENT_TIMEOUT_S='3', **settings)
    assert re.match(
        r'error: the database cannot be checked: /\S+/top_benefits\.sql: ', reason(checked)
    )


@pytest.mark.slow
@pytest.mark.parametrize('settings', [{}, UNBOUNDED], ids=['default', 'unbounded'])
def test_server_that_goes_silent_after_the_login_holds_up_no_start(
    silent: Muzzle, start_api: Callable[..., ApiProcess], settings: dict[str, str]
) -> None:
    api = start_api(DATABASE_URL=silent.url, API_STATEMENT_TIMEOUT_S='0.5', **settings)
    assert api.get('/live').status_code == 200
    assert 'no answer' in api.output()
    assert api.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_start_that_waits_for_a_silent_server(
    silent: Muzzle, tmp_path: Path, number: signal.Signals
) -> None:
    starting = subprocess.Popen(
        [sys.executable, '-m', 'api'],
        cwd=ROOT,
        env=patient_environment()
        | {'DATABASE_URL': silent.url, 'API_STATEMENT_TIMEOUT_S': '3600', 'TMPDIR': str(tmp_path)}
        | UNBOUNDED
        | SAYS_WHERE_IT_IS,
    )
    assert silent.is_silent.wait(DEADLINE_S)
    processes = [psutil.Process(starting.pid), *psutil.Process(starting.pid).children()]
    try:
        starting.send_signal(number)
        assert end_of(starting) == 0
        assert psutil.wait_procs(processes, DEADLINE_S)[1] == []
    finally:
        starting.kill()
        starting.wait()
    assert list(tmp_path.iterdir()) == []


def test_check_that_hangs_in_a_running_service_hinders_nothing(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    load(own_server.url(), 'schema.sql', 'indexes.sql')
    with psycopg.connect(own_server.url()) as connection:
        connection.execute('lock table benefit_usage')
        connection.execute("prepare transaction 'a lock that a restart does not end'")
    own_server.terminate()
    api = start_api(
        DATABASE_URL=own_server.url(), API_WORKERS='1', API_STATEMENT_TIMEOUT_S='3600', **UNBOUNDED
    )
    with client_of_each_worker(api, 1) as clients:
        [pid] = clients
    own_server.start()
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        wait_for(lambda: admin.execute(CHECKS_THAT_WAIT).fetchone() == (1,))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: 'worker 1 ended with status -9' in api.output())
    assert httpx.get(f'{api.url}/live', timeout=DEADLINE_S).status_code == 200
    assert api.stop() == 0


def test_table_that_a_restore_has_not_made_yet_ends_no_running_service(
    own_server: EmbeddedServer, start_api: Callable[..., ApiProcess]
) -> None:
    own_server.terminate()
    api = start_api(DATABASE_URL=own_server.url())
    assert api.get('/live').status_code == 200
    assert 'cannot be reached' in api.output()
    own_server.start()
    wait_for(
        lambda: re.search(r'level=error event="/\S+/top_benefits\.sql line \d+: rel', api.output())
    )
    assert api.get('/live').status_code == 200
    load(own_server.url(), 'schema.sql')
    wait_for(lambda: 'recommended indexes are missing' in api.output())  # so it was checked
    assert api.get(TOP).status_code == 200


def test_database_without_an_encoding_is_refused(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url(database='postgres'), autocommit=True) as admin:
        admin.execute("create database no_encoding encoding 'SQL_ASCII' template template0")
    try:
        load(server.url(database='no_encoding'), 'schema.sql', 'indexes.sql')
        assert 'SQL_ASCII' in reason(run_check(server.url(database='no_encoding')))
    finally:
        with psycopg.connect(server.url(database='postgres'), autocommit=True) as admin:
            admin.execute('drop database no_encoding with (force)')


@pytest.fixture(scope='module')
def guarded() -> Iterator[GuardedServer]:
    """Return a server with two roles that may not log in, and one that may."""
    with GuardedServer() as guarded_server:
        load(guarded_server.url(), 'schema.sql', 'indexes.sql')
        with psycopg.connect(guarded_server.url(), autocommit=True) as admin:
            admin.execute("create role nobody_at_home nologin password 'hunter2'")
            admin.execute("create role outsider login password 'hunter2'")
        yield guarded_server


FAILURES = {
    'wrong password': ('user=reader password=hunter3', 'password authentication failed'),
    'no password': ('user=reader', 'no password supplied'),
    'no such role': ('user=stranger password=hunter3', 'password authentication failed'),
    'no login': ('user=nobody_at_home password=hunter2', 'is not permitted to log in'),
    'unknown database': (
        'user=reader password=hunter2 dbname=nothing',
        'database "nothing" does not exist',
    ),
    'pg_hba': ('user=outsider password=hunter2', 'pg_hba.conf rejects connection'),
    'refused port': ('user=reader password=hunter2 port=1', 'Connection refused'),
    'unknown host': ('user=reader password=hunter2 host=nowhere.invalid', 'nowhere.invalid'),
    'no TLS': ('user=reader password=hunter2 sslmode=require', 'does not support SSL'),
}


@pytest.fixture(params=FAILURES)
def failure(request: pytest.FixtureRequest, guarded: GuardedServer) -> tuple[str, str, str]:
    """Return a database that cannot be had, libpq's reason, and what is meant by it."""
    changes, told = FAILURES[request.param]
    parameters = {'host': '127.0.0.1', 'port': guarded.settings['port'], 'dbname': 'test'}
    parameters |= dict(change.split('=') for change in changes.split())
    place = '(database {dbname} on {host} port {port} as {user})'.format(**parameters)
    return ' '.join(f'{name}={value}' for name, value in parameters.items()), told, place


@pytest.mark.slow
def test_check_on_demand_tells_the_reason(failure: tuple[str, str, str]) -> None:
    url, told, place = failure
    line = reason(run_check(url))
    assert line.startswith('error: the database cannot be reached: ')
    assert told in line
    assert line.endswith(place)
    assert 'hunter' not in line


@pytest.mark.slow
def test_service_waits_and_tells_the_reason_to_nobody_but_its_log(
    failure: tuple[str, str, str], start_api: Callable[..., ApiProcess]
) -> None:
    url, told, place = failure
    api = start_api(DATABASE_URL=url, API_POOL_TIMEOUT_S='0.3')
    of_workers = r'level=warning event="error connecting in [^\n]*'
    wait_for(lambda: re.search(of_workers, api.output()))
    for line in ('event="the database cannot be reached: ', 'event="error connecting in '):
        [*found] = [each for each in api.output().splitlines() if line in each]
        assert found
        for each in found:
            assert told.replace('"', r'\"') in each
            assert place in each
    assert 'hunter' not in api.output()
    for path in (TOP, '/ready'):
        answer = api.get(path)
        assert answer.status_code == 503
        for secret in (told, place, 'reader', '127.0.0.1', 'nowhere'):
            assert secret not in answer.text


@pytest.mark.slow
def test_role_that_is_made_later_is_let_in(
    guarded: GuardedServer, start_api: Callable[..., ApiProcess]
) -> None:
    url = f'postgresql://late:hunter2@127.0.0.1:{guarded.settings["port"]}/test'
    api = start_api(DATABASE_URL=url, **BRIEF)
    assert api.get('/ready').status_code == 503
    with psycopg.connect(guarded.url(), autocommit=True) as admin, admin.transaction():
        admin.execute("create role late login password 'hunter2'")
        admin.execute('grant select on all tables in schema public to late')
    wait_for(lambda: api.get('/ready').status_code == 200)
    assert api.get(TOP).status_code == 200
