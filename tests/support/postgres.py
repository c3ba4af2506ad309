"""PostgreSQL servers, and databases cloned from a template."""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.commands import run
from tests.support.machine import free_port
from tests.support.waiting import wait_for
from tools.embedded import EmbeddedServer

clones = itertools.count(1)


@contextmanager
def cloned(server: EmbeddedServer, options: str = 'template test') -> Iterator[str]:
    """Create a database, by default a clone of `test`; yields its URL."""
    name = f'clone_{next(clones)}'
    with psycopg.connect(server.url(database='postgres'), autocommit=True) as admin:
        admin.execute(f'create database {name} {options}')
        try:
            yield server.url(database=name)
        finally:
            admin.execute(f'drop database {name} with (force)')


def program(server: EmbeddedServer, name: str) -> str:
    """Return the path of a client program: the server's, or else the installed one."""
    path = server.binaries / name
    if found := str(path) if path.exists() else shutil.which(name):
        return found
    pytest.skip(f'{name} is not installed: install the PostgreSQL client programs')


def run_file(server: EmbeddedServer, path: Path, url: str = '') -> None:
    """Run a SQL file in psql, by default on the server's database `test`."""
    words = ('-X', '-v', 'ON_ERROR_STOP=1', '-f', str(path))
    run(program(server, 'psql'), url or server.url(), *words)


class TcpServer(EmbeddedServer):
    """A server that also listens on a local port.

    Attributes:
        access: The lines of pg_hba.conf; by default, no password is required.
    """

    access = ''

    def __init__(self, **options: str) -> None:
        super().__init__(listen_addresses='127.0.0.1', **options)

    def prestart(self) -> None:
        """Choose a port (called by the base class)."""
        self.settings['port'] = free_port()

    def initialize_database(self) -> None:
        """Create the data folder, and write `access` to it (called by the base class)."""
        super().initialize_database()
        if self.access:
            Path(self.get_data_directory(), 'pg_hba.conf').write_text(self.access)


class GuardedServer(TcpServer):
    """A server that requires passwords over TCP, with a role `reader`."""

    access = 'local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n'

    def __init__(self, **options: str) -> None:
        super().__init__(password_encryption='scram-sha-256', **options)
        with psycopg.connect(self.url()) as admin:
            admin.execute("create role reader login password 'hunter2'")

    def reader_url(self, database: str) -> str:
        """Return the URL with which the role connects to a database over TCP."""
        return f'postgresql://reader:hunter2@127.0.0.1:{self.settings["port"]}/{database}'


def suspend_server(server: EmbeddedServer) -> list[psutil.Process]:
    """Suspend all processes of a server, and wait until they are suspended; returns them."""
    postmaster = psutil.Process(server.server_pid)
    _suspend(postmaster)  # first, so that it starts no more processes
    processes = postmaster.children()
    for process in processes:
        _suspend(process)
    return [*processes, postmaster]


def _suspend(process: psutil.Process) -> None:
    stopped = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        wait_for(lambda: process.status() in stopped)


@contextmanager
def suspended(server: EmbeddedServer) -> Iterator[None]:
    """Suspend a server during a with block."""
    processes = suspend_server(server)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
