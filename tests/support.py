"""What tests share: databases cloned from a template, rows, and real API processes."""

import functools
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
import psutil
import psycopg
import pytest

from api.database.queries import FOLDER, load_query
from tools.embedded import EmbeddedServer, launch_as, traversable_folder, unprivileged_user

T = TypeVar('T')

ROOT = Path(__file__).parent.parent
PLAIN = ROOT / 'db' / 'plain'
# the files that db/functions is compared with
ORACLES = (ROOT / 'tests' / 'functions' / 'oracle', PLAIN)
# for whatever has to happen sooner or later: many times what a loaded machine needs
DEADLINE_S = 60
# where a database is away, that is how long each answer takes
BRIEF = {'API_POOL_TIMEOUT_S': '1.5'}
# with which PostgreSQL ends the answer to a login or a statement
READY_FOR_QUERY = b'Z\x00\x00\x00\x05I'

numbers = itertools.count(1)
loaded = functools.cache(load_query)


def until(deadline_s: float = DEADLINE_S) -> Iterator[None]:
    """Yield every few milliseconds until a deadline; for loops that wait for something."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def wait_for(is_so: Callable[[], T]) -> T:
    """Wait until something is so; returns it."""
    for _ in until():
        if found := is_so():
            return found
    raise AssertionError('waited for too long')


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that configures the service."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('API_', 'PG', 'MAKE', 'MFLAGS', 'GUNICORN_', 'DATABASE_URL'))
    } | {'API_CONFIG': os.devnull}  # and not the config.toml of who develops


def patient_environment() -> dict[str, str]:
    """Return a clean environment in which the service waits for a database that is slow.

    Its own limits are shorter than some pauses of a loaded machine. A test of one sets it.
    """
    patience = str(DEADLINE_S // 2)  # an answer still comes before its client leaves
    limits = ('POOL', 'STATEMENT')
    return clean_environment() | {f'API_{limit}_TIMEOUT_S': patience for limit in limits}


@contextmanager
def cloned(server: EmbeddedServer, template: str = 'test') -> Iterator[str]:
    """Clone a database; yields its URL."""
    name = f'clone_{next(numbers)}'
    with psycopg.connect(server.url(database='postgres'), autocommit=True) as admin:
        admin.execute(f'create database {name} template {template}')
        try:
            yield server.url(database=name)
        finally:
            admin.execute(f'drop database {name} with (force)')


def program(server: EmbeddedServer, name: str) -> str:
    """Return a client program of the server's, or else the system's."""
    path = server.binaries / name
    if found := str(path) if path.exists() else shutil.which(name):
        return found
    pytest.skip(f'there is no {name} on this machine: install the PostgreSQL client programs')


def run(*command: str) -> str:
    """Run a command that succeeds; returns what it prints."""
    finished = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run_check(url: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m api --check`."""
    return subprocess.run(
        [sys.executable, '-m', 'api', '--check'],
        cwd=ROOT,
        env=patient_environment() | {'DATABASE_URL': url} | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def reason(checked: subprocess.CompletedProcess) -> str:
    """Return the only line of a check that failed."""
    assert checked.returncode == 1
    [line] = checked.stderr.splitlines()
    return line


def failed_start(**environment: str) -> str:
    """Start the service, which fails; returns the only line printed that is not the log's."""
    finished = subprocess.run(
        [sys.executable, '-m', 'api'],
        cwd=ROOT,
        env=patient_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert finished.returncode == 1
    [line] = [line for line in finished.stdout.splitlines() if not line.startswith('timestamp=')]
    return line


def copy_project(folder: Path) -> Path:
    """Copy what the service runs from into a folder; returns the copy."""
    for name in ('api', 'db', 'tools'):
        shutil.copytree(ROOT / name, folder / 'project' / name)
    return folder / 'project'


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first place of a text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class GuardedServer(EmbeddedServer):
    """A server on a port of this machine that asks for passwords, with a role `reader`."""

    def __init__(self, **options: str) -> None:
        super().__init__(
            listen_addresses='127.0.0.1', password_encryption='scram-sha-256', **options
        )
        with psycopg.connect(self.url()) as admin:
            admin.execute("create role reader login password 'hunter2'")

    def reader_url(self, database: str) -> str:
        """Return the URL with which the role connects to a database, by TCP."""
        return f'postgresql://reader:hunter2@127.0.0.1:{self.settings["port"]}/{database}'

    def prestart(self) -> None:
        """Choose a port (called by the base class)."""
        self.settings['port'] = free_port()

    def initialize_database(self) -> None:
        """Make the data folder with the rules (called by the base class)."""
        super().initialize_database()
        Path(self.get_data_directory(), 'pg_hba.conf').write_text(
            'local all all trust\n'
            'host all outsider all reject\n'
            'host all all 127.0.0.1/32 scram-sha-256\n'
        )


class Rows:
    """Writes the rows that a test needs, and reads them with the function files.

    Attributes:
        connection: An autocommit connection to the test's database.
        folders: Where a function file is looked for before db/functions.
    """

    def __init__(self, connection: psycopg.Connection, folders: Sequence[Path] = ()) -> None:
        self.connection = connection
        self.folders = folders

    def answer(self, name: str, **values: object) -> tuple:
        """Run a function file; returns its row, the body parsed."""
        return run_function(self.connection, name, folders=self.folders, **values)

    def venues(self, *ids: int) -> None:
        """Insert venues."""
        for id_ in ids:
            self.connection.execute('insert into venue values (%s, %s)', [id_, f'Venue {id_}'])

    def many_venues(self) -> None:
        """Insert so many that the answer of top-benefits has more than 10 MiB."""
        self.connection.execute(
            "insert into venue select n, 'Venue' from generate_series(2, 220000) as s (n)"
        )

    def people(self, *ids: int) -> None:
        """Insert people."""
        for id_ in ids:
            self.connection.execute('insert into person values (%s, %s)', [id_, f'Person {id_}'])

    def benefit(self, id_: int, recurrence: str = 'day', *, venue: int = 1) -> None:
        """Insert a benefit."""
        self.connection.execute(
            'insert into benefit values (%s, %s, %s, %s)',
            [id_, venue, f'Benefit {id_}', recurrence],
        )

    def uses(self, benefit: int, *timestamps: str | datetime, person: int = 1) -> None:
        """Insert uses of a benefit by a person; timestamps are UTC without an offset."""
        for timestamp in timestamps:
            self.connection.execute(
                'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
                ' values (%s, %s, %s)',
                [person, benefit, timestamp],
            )


@contextmanager
def open_rows(url: str, folders: Sequence[Path] = ()) -> Iterator[Rows]:
    """Connect to an empty database, and write venue 1 and person 1; yields a writer."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = Rows(connection, folders)
        rows.venues(1)
        rows.people(1)
        yield rows


@contextmanager
def locked_uses(url: str) -> Iterator[None]:
    """Let no report that reads uses come to an end in the block of a with statement."""
    with psycopg.connect(url) as connection:
        connection.execute('lock table benefit_usage')
        yield


def make_slow(rows: Rows, seconds: float) -> None:
    """Make every look at benefit_usage take some seconds."""
    rows.benefit(1)
    rows.connection.execute('alter table benefit_usage rename to quick')
    rows.connection.execute(
        f'create view benefit_usage as select quick.* from quick, pg_sleep({seconds})'
        f" union all (select 1, 1, 1, timestamp '-infinity' from pg_sleep({seconds}) offset 0)"
    )


def wait_until_busy(rows: Rows, report: str = 'available', count: int = 1) -> None:
    """Wait until so many of a report, whose name begins so, sleep or wait for a lock."""
    query = (
        f"select count(*) from pg_stat_activity where query like '-- name: {report}%'"
        " and datname = current_database() and state = 'active'"
        # and so are neither being prepared, which is an exchange of its own, nor about to end
        " and backend_type = 'client backend' and wait_event_type in ('Timeout', 'Lock')"
    )
    wait_for(lambda: rows.connection.execute(query).fetchone()[0] >= count)


def run_function(
    connection: psycopg.Connection,
    name: str,
    *,
    folders: Sequence[Path] = (),
    **values: object,
) -> tuple:
    """Run a function file, that of db/functions where no folder has it.

    Returns:
        Its row, the body parsed.
    """
    paths = [folder / f'{name}.sql' for folder in (*folders, FOLDER)]
    query = loaded(next(path for path in paths if path.exists()))
    parameters = {each.name: values.get(each.name) for each in query.parameters}
    return connection.execute(query.sql, parameters).fetchone()


def body(rows: 'Rows', name: str, **values: object) -> list:
    """Return the body of a function file's answer, parsed."""
    return rows.answer(name, **values)[0]


def is_listening(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0


class ApiProcess:
    """A real `python -m api`, reached over HTTP on a port that it chose itself.

    Attributes:
        client: Talks to it.
        process: The process; its output goes to `log`.
        collector: The process that reads its output from a pipe, if one does.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *,
        folder_of_project: Path = ROOT,
        launch: Sequence[str] = (),
        is_piped: bool = False,
    ) -> None:
        self.log = folder / f'api-{next(numbers)}.log'
        self.collector: subprocess.Popen | None = None
        with ExitStack() as stack:
            output = stack.enter_context(self.log.open('wb'))
            if is_piped:
                self.collector = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=output)
                output = stack.enter_context(self.collector.stdin)
            self.process = subprocess.Popen(
                [*launch, sys.executable, '-m', 'api'],
                cwd=folder_of_project,
                env=patient_environment() | {'API_PORT': '0'} | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        # a quiet log does not tell the port: such a test chooses it
        is_quiet = 'API_LOG_LEVEL' in environment
        try:
            self.port = self._wait_for_port(environment['API_PORT'] if is_quiet else '0')
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        self.url = f'http://127.0.0.1:{self.port}'
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE_S)

    def _wait_for_port(self, chosen: str) -> int:
        listening = r'Listening at: http://127\.0\.0\.1:(\d+)'
        for _ in until():
            if found := re.search(listening, self.output()):
                return int(found[1])
            if chosen != '0' and is_listening(int(chosen)):
                return int(chosen)
            if self.process.poll() is not None:
                break
        raise AssertionError(f'the API does not listen:\n{self.output()}')

    def output(self) -> str:
        """Return what the process has printed so far."""
        return self.log.read_text()

    def get(self, path: str, **kwargs: object) -> httpx.Response:
        """Send a GET."""
        return self.client.get(path, **kwargs)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE_S)
        if self.collector:  # has read all
            self.collector.wait(DEADLINE_S)
        return status


def metric(api: ApiProcess | httpx.Client, name: str) -> float:
    """Return one of the API's metrics; 0 for one that is not there.

    Args:
        api: The API, of which any worker answers, or a connection to one worker.
        name: Name and labels, with the common prefix or without.
    """
    if isinstance(api, httpx.Client):
        answer = api.get('/metrics')
    else:  # any worker's
        answer = httpx.get(f'{api.url}/metrics', timeout=DEADLINE_S)
    for line in answer.text.splitlines():
        if line.removeprefix('benefits_api_').startswith(f'{name} '):
            return float(line.rsplit(' ', 1)[1])
    return 0.0


def workers(api: ApiProcess) -> list[psutil.Process]:
    """Return the API's worker processes."""
    return psutil.Process(api.process.pid).children()


def suspend(process: psutil.Process) -> None:
    """Suspend a process, and wait until it is: its first thread has to run to take the signal.

    Once that one has stopped none of the others runs on: it has told them.
    """
    process.suspend()
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)


def suspend_server(server: EmbeddedServer) -> list[psutil.Process]:
    """Suspend a server with all its processes; returns them."""
    postmaster = psutil.Process(server.server_pid)
    suspend(postmaster)  # so that it starts no more of them
    processes = postmaster.children()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    return [*processes, postmaster]


@contextmanager
def client_of_each_worker(
    api: ApiProcess, count: int | None = None
) -> Iterator[dict[int, httpx.Client]]:
    """Connect until every worker has a client; yields the clients by their worker's pid.

    Args:
        api: The API.
        count: How many workers it has; by default, as many as run now.
    """
    clients: dict[int, httpx.Client] = {}
    with ExitStack() as stack:
        for _ in until():
            client = stack.enter_context(httpx.Client(base_url=api.url, timeout=DEADLINE_S))
            stream = client.get('/live').extensions['network_stream']
            port = stream.get_extra_info('client_addr')[1]
            running = workers(api)
            [pid] = [worker.pid for worker in running if port in ports(worker)]
            clients.setdefault(pid, client)
            if len(clients) == (count or len(running)):
                break
        else:
            raise AssertionError(f'{len(clients)} workers take connections')
        yield clients


def settled_output(api: ApiProcess) -> str:
    """Return what the API has printed, with the lines of all that it has answered so far."""
    ids = []
    with client_of_each_worker(api) as clients:
        for client in clients.values():
            ids.append(f'settled-{next(numbers)}')
            client.get('/live', headers={'X-Request-ID': ids[-1]})
    # a worker's lines stay in order
    wait_for(lambda: all(f'request_id={id_} ' in api.output() for id_ in ids))
    return api.output()


def connections(process: psutil.Process) -> list[Any]:
    """Return the TCP connections of a process as psutil has them; none if it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        found = process.net_connections('tcp')
        return [connection for connection in found if connection.status == psutil.CONN_ESTABLISHED]
    return []


def connection_counts(api: 'ApiProcess') -> list[int]:
    """Return how many clients each worker has."""
    return [
        sum(connection.laddr.port == api.port for connection in connections(worker))
        for worker in workers(api)
    ]


def ports(worker: psutil.Process) -> set[int]:
    """Return the ports of a worker's peers: its clients and the database."""
    return {connection.raddr.port for connection in connections(worker)}


def system_program(name: str, package: str) -> str:
    """Return a program of the system's; the test is skipped without it, or fails in CI."""
    # where Debian puts what serves, which is not on an ordinary user's path
    path = os.pathsep.join([os.environ.get('PATH', os.defpath), '/usr/local/sbin', '/usr/sbin'])
    return shutil.which(name, path=path) or missing(
        f'no {name} on this machine (Debian: apt install {package})'
    )


def missing(message: str) -> NoReturn:
    """Skip the test since the machine lacks something, which in CI is a failure."""
    if os.environ.get('CI'):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB over an empty folder; yields that."""
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m,mode=1777', 'tmpfs', str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip('no right to mount a file system on this machine')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free on the file system of a folder."""
    with (folder / 'filling').open('wb', buffering=0) as file:
        while os.statvfs(folder).f_bfree:
            file.write(bytes(4096))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Daemon:
    """A server of the system's that listens on a port of this machine, with a folder of its own.

    It runs as the user that runs PostgreSQL, so never as root, and not longer than this process.

    Attributes:
        folder: Its files; its output goes to `log` in it.
        port: Where it listens.
    """

    def __init__(self, name: str, package: str) -> None:
        self._program = system_program(name, package)
        self._owner = unprivileged_user()
        self._folder = tempfile.TemporaryDirectory(prefix=f'{name}-', dir=traversable_folder())
        self.folder = Path(self._folder.name)
        os.chown(self.folder, *self._owner)
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    def start(self, *arguments: str) -> None:
        """Start it and wait until it listens."""
        with (self.folder / 'log').open('ab') as log:
            self.process = subprocess.Popen(
                [*launch_as(*self._owner), self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for _ in until():
            if is_listening(self.port):
                return
            if self.process.poll() is not None:
                break
        raise AssertionError(f'{self._program} does not listen:\n{self.output()}')

    def output(self) -> str:
        """Return what it has printed so far."""
        return (self.folder / 'log').read_text()

    def kill(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it with a signal."""
        if self.process:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)

    def __enter__(self) -> 'Daemon':
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
