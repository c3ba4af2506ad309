"""A primary with streaming standbys, and servers that go as a machine goes: at once."""

import signal
from contextlib import suppress

import psutil
import psycopg

from tests.support.postgres import program, suspend_server
from tests.support.waiting import DEADLINE_S, until
from tools.embedded import EmbeddedServer, run_as_server

SESSIONS = "from pg_stat_activity where application_name like 'membership-benefits-api/%%'"


class Standby(EmbeddedServer):
    """A hot standby of another server, made with pg_basebackup.

    Args:
        primary: The server that it follows.
        options: Server settings, by name; values without spaces.
    """

    def __init__(self, primary: EmbeddedServer, **options: str) -> None:
        self._primary = primary
        # a pg_basebackup of another version may write options that the server does not know
        source = {'primary_conninfo': primary.url(database='postgres')}
        super().__init__(**source | options)

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
        """Wait until it has replayed all that the primary has written."""
        with psycopg.connect(self._primary.url(), autocommit=True) as connection:
            [written] = connection.execute('select pg_current_wal_lsn()').fetchone()
        for _ in until():
            if value(self, 'select pg_last_wal_replay_lsn() >= %s::pg_lsn', written):
                return
        raise AssertionError('the standby does not follow')

    def promote(self) -> None:
        """Make it a primary."""
        assert value(self, 'select pg_promote(wait_seconds => %s)', DEADLINE_S)


def value(server: EmbeddedServer, sql: str, *values: object) -> object:
    """Ask a server for one value."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        return connection.execute(sql, values).fetchone()[0]


def sessions(server: EmbeddedServer, file: str = '') -> int:
    """Count the API's sessions on a server; of those that last ran a file, if one is named."""
    return value(server, f'select count(*) {SESSIONS} and query like %s', f'%{file}%')


def kill(server: EmbeddedServer) -> None:
    """End a server with all its processes, as a power cut does; `start` brings it back."""
    # a session that outlives another may be the one with which the other's request is tried again
    processes = suspend_server(server)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.child_process.wait(DEADLINE_S)
    psutil.wait_procs(processes, DEADLINE_S)
    server.child_process = None


def stop_immediately(server: EmbeddedServer) -> None:
    """End a server without a shutdown, as `pg_ctl stop -m immediate`; `start` brings it back."""
    server.child_process.send_signal(signal.SIGQUIT)
    server.child_process.wait(DEADLINE_S)
    server.child_process = None


def hosts(*servers: EmbeddedServer, user: str = 'postgres') -> str:
    """Return a URL that names several servers, in their order."""
    folders = ','.join(server.base_dir for server in servers)
    return f'postgresql://{user}@/test?host={folders}&port=5432'
