"""Mixed load while one fault follows another: every answer stays right, and nothing is left behind.

MINUTES says how long the faults go on, and SOAK_SEED repeats a run whose seed was printed.
"""

import gzip
import json
import os
import random
import resource
import signal
import socket
import struct
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import IncompleteRead
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import pytest

from tests.faults.load import Asked, Load
from tests.support.machine import fill, small_file_system
from tests.support.rows import ORACLES, run_function
from tests.support.service import ApiProcess, workers
from tests.support.waiting import DEADLINE_S, until, wait_for
from tools.embedded import EmbeddedServer, load

MINUTES = float(os.environ.get('MINUTES') or 1)
SEED = int(os.environ.get('SOAK_SEED') or random.SystemRandom().randrange(10**6))
WORKERS, POOL_SIZE, MAX_WAITING = 2, 4, 64
SETTINGS = {
    'API_WORKERS': str(WORKERS),
    'API_POOL_SIZE': str(POOL_SIZE),
    'API_POOL_MAX_WAITING': str(MAX_WAITING),
    # brief, as faults last until one is over, and yet long for a loaded machine. Not the same: who
    # stops waiting just when sessions become free is told that the database is unavailable
    'API_POOL_TIMEOUT_S': '7',
    'API_STATEMENT_TIMEOUT_S': '10',
}
LIVE = '/live'


class Clients(NamedTuple):
    """A kind of client: how many, the headers that they send, and whether they ask for /live."""

    number: int
    headers: dict[str, str]
    ask_live: bool = False


CLIENTS = (
    Clients(4, {}),
    Clients(2, {'Accept-Encoding': 'gzip'}),
    Clients(2, {'Connection': 'close'}),
    # as a liveness probe does, on a new connection each time
    Clients(1, {'Connection': 'close'}, ask_live=True),
)
CLIENT_COUNT = sum(clients.number for clients in CLIENTS)
PAUSE_S = 0.01
STEADY_REQUESTS = 400
OURS = "application_name like 'membership-benefits-api/%' and backend_type = 'client backend'"

UNAVAILABLE = '503 database-unavailable'
OVERLOADED = '503 overloaded'
TIMEOUT = '504 statement-timeout'
CUT_OFF = 'cut off'
# /live is promised within a second; a loaded machine has ten
LIVE_S = 10

MIB = 2**20
# together with the load fewer than may wait at one worker, so that nobody is refused
HANG_UPS = 10
# what a new thread takes of the addresses that a process may have
STACK_BYTES = 8 * MIB
# of all processes together: what Python and libc keep for later, which clients who read nothing
# raise most and once; what is kept by mistake for each of thousands of requests is more
MARGINS = {'memory': 48 * MIB, 'files': 8, 'threads': 40}


class Soak:
    """A service under load, and what it answered.

    Attributes:
        admin: Connects to its database; the connection does not outlive the with statement.
        api: The service.
        chance: Every choice comes from it.
        folder: Where it puts temporary files.
    """

    def __init__(
        self, server: EmbeddedServer, start: Callable[..., ApiProcess], folder: Path
    ) -> None:
        self.server = server
        self.start = start
        self.folder = folder
        self.apis = [start()]
        self.chance = random.Random(SEED)
        self.found = Counter()
        self.wrong: list[Asked] = []
        self.slowest_live_s = 0.0
        self._right: dict[tuple[str, str], bytes] = {('', LIVE): b'{"status": "live"}'}
        self._paths: list[str] = []
        self._loads: list[Load] = []

    @property
    def api(self) -> ApiProcess:
        return self.apis[-1]

    def admin(self) -> psycopg.Connection:
        return psycopg.connect(self.server.url(), autocommit=True)

    def learn(self) -> None:
        """Ask for everything and compare it with the plain forms; later, bytes are compared."""
        now = datetime.now(UTC).replace(microsecond=0)
        moments = [now - timedelta(days=days, hours=7 * days) for days in (0, 1, 40)]
        asked = {}
        for moment in moments:
            query = f'timestamp={moment:%Y-%m-%dT%H:%M:%SZ}'
            asked[f'/venues/top-benefits?{query}'] = ('top_benefits', {'timestamp': moment})
            for venue in (1, 2, 3, 11, 28, 29, 30):
                values = {'venue_id': venue, 'timestamp': moment}
                path = f'/venues/{venue}/inactivity-periods?{query}'
                asked[path] = ('inactivity_periods', values)
                for person in (1, 2, 12, 400):
                    path = f'/venues/{venue}/available-benefits?personId={person}&{query}'
                    asked[path] = ('available_benefits', values | {'person_id': person})
        with self.admin() as connection:
            for path, (name, values) in asked.items():
                [expected, *_] = run_function(connection, name, folders=ORACLES, **values)
                for coding in ('', 'gzip'):
                    request = urllib.request.Request(
                        self.api.url + path, headers={'Accept-Encoding': coding or 'identity'}
                    )
                    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                        body = answer.read()
                        is_small = answer.headers['Content-Encoding'] == 'gzip'
                    assert json.loads(gzip.decompress(body) if is_small else body) == expected
                    self._right[coding, path] = body
        self._paths = list(asked)
        self.chance.shuffle(self._paths)

    def path(self, number: int) -> str:
        # a steady load and not as much as the machine can do: other tests run beside it
        time.sleep(PAUSE_S)
        return self._paths[number % len(self._paths)]

    def live(self, _: int) -> str:
        time.sleep(PAUSE_S)
        return LIVE

    def __enter__(self) -> 'Soak':
        """Start the load."""
        with ExitStack() as stack:
            for number, headers, ask_live in CLIENTS:
                path = self.live if ask_live else self.path
                clients = Load(self.api.url, path, clients=number, headers=headers)
                self._loads.append(stack.enter_context(clients))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._stack.close()
        self.judge()
        self._loads = []

    def wait_for_more(self, number: int = STEADY_REQUESTS) -> None:
        """Wait until so many requests have ended, of every kind of client its share."""
        for clients, running in zip(CLIENTS, self._loads, strict=True):
            if not clients.ask_live:
                running.wait_for(number * clients.number // CLIENT_COUNT)
        self.wait_for_live()

    def wait_for_live(self) -> None:
        """Wait until /live has been answered, whatever else is not."""
        self._loads[-1].wait_for(5)

    def wait_for_outcome(self, *outcomes: str) -> None:
        """Wait until a request of the load has ended in one of some ways."""
        wait_for(
            lambda: any(
                one.status != 200 and outcome(one) in outcomes
                for running in self._loads
                for one in running.asked[-STEADY_REQUESTS:]
            )
        )

    def judge(
        self,
        allowed: tuple[str, ...] = (),
        begun: float = 0.0,
        ended: float = 0.0,
        live_s: float = LIVE_S,
    ) -> Counter[str]:
        """Look at all that has been answered so far, and forget it.

        Args:
            allowed: How requests may end that ran between the two moments, but for the well.
            begun: When a fault began.
            ended: When it was over.
            live_s: How long /live may take.
        """
        found = Counter()
        self.slowest_live_s = 0.0
        for clients, running in zip(CLIENTS, self._loads, strict=True):
            asked = running.asked[:]
            del running.asked[: len(asked)]
            coding = clients.headers.get('Accept-Encoding', '')
            may_fail = [each for each in allowed if each == CUT_OFF or not clients.ask_live]
            for one in asked:
                if one.status == 200:
                    is_right = one.body == self._right[coding, one.path]
                    found['right' if is_right else 'wrong'] += 1
                else:
                    is_during = one.at <= ended and one.at + one.seconds >= begun
                    # who was connected to a killed worker learns it with the next request
                    is_late = outcome(one) == CUT_OFF and one.at >= begun
                    is_right = (is_during or is_late) and outcome(one) in may_fail
                    found[outcome(one)] += 1
                if clients.ask_live:
                    self.slowest_live_s = max(self.slowest_live_s, one.seconds)
                    is_right = is_right and one.seconds < live_s
                if not is_right:
                    self.wrong.append(one)
        assert found[CUT_OFF] <= CLIENT_COUNT, 'a killed worker has one connection of each client'
        self.found += found
        return found

    def workers(self) -> list[psutil.Process]:
        """Return the workers, the oldest first."""
        found = psutil.Process(self.api.process.pid).children()
        return sorted(found, key=lambda worker: (worker.create_time(), worker.pid))

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.api.process.pid), *self.workers()]

    def memory(self) -> int:
        """Return how many bytes the service's processes have for themselves."""
        return sum(process.memory_full_info().uss for process in self.processes())

    def figures(self) -> dict[str, int]:
        """Return what the service holds: memory of its own, files, threads and sessions."""
        return {
            'memory': self.memory(),
            'files': sum(process.num_fds() for process in self.processes()),
            'threads': sum(process.num_threads() for process in self.processes()),
        }

    def pids(self) -> list[int]:
        """Return the sessions' processes."""
        with self.admin() as connection:
            found = connection.execute(f'select pid from pg_stat_activity where {OURS}')
            return [pid for (pid,) in found]

    def crowd(self, paths: list[str]) -> Counter[str]:
        """Ask for many paths at the same time; returns how many ended how."""
        found = Counter()
        with ExitStack() as stack:
            clients = [connect(self.api, stack) for _ in paths]
            for client, path in zip(clients, paths, strict=True):
                client.sendall(request(path, 'Connection: close\r\n'))
            for client in clients:
                answer = client.makefile('rb').read()
                head, _, body = answer.partition(b'\r\n\r\n')
                status = int(head.split()[1])
                found[outcome(Asked(0, '', 0, status, body)) if status != 200 else '200'] += 1
        return found


def outcome(one: Asked) -> str:
    """Return in one word how a request ended that was not answered with 200."""
    if one.failure:
        is_cut_off = isinstance(one.failure, ConnectionError | IncompleteRead)
        return CUT_OFF if is_cut_off else type(one.failure).__name__
    return f'{one.status} {json.loads(one.body)["type"].rsplit("/", 1)[1]}'


def connect(api: ApiProcess, stack: ExitStack) -> socket.socket:
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE_S)
    client.connect(('127.0.0.1', api.port))
    return client


def request(path: str, headers: str = '') -> bytes:
    return f'GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n'.encode()


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes in the block of a with statement."""

    def send(number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # one that was about to end
                os.kill(pid, number)

    try:
        send(signal.SIGSTOP)
        yield
    finally:
        send(signal.SIGCONT)


@contextmanager
def limited(process: psutil.Process, kind: int, limit: int) -> Iterator[None]:
    """Set a limit for a process that runs already."""
    before = resource.prlimit(process.pid, kind)
    resource.prlimit(process.pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, kind, before)


def restart_database(soak: Soak) -> None:
    """Stop PostgreSQL at once, leave it down until that is noticed, and start it."""
    os.kill(soak.server.server_pid, signal.SIGQUIT)
    soak.server.child_process.wait()
    soak.server.child_process = None
    soak.wait_for_outcome(UNAVAILABLE)
    soak.server.start()


def crash_backend(soak: Soak) -> None:
    """Kill a session's process, upon which PostgreSQL ends all others and recovers."""
    with soak.admin() as connection:
        os.kill(soak.chance.choice(soak.pids()), signal.SIGKILL)

        def is_cut_off() -> bool:
            try:
                connection.execute('select')
            except psycopg.OperationalError:
                return True
            return False

        wait_for(is_cut_off)

    def is_back() -> bool:
        try:
            soak.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    wait_for(is_back)


def end_backends(soak: Soak) -> None:
    with soak.admin() as connection:
        query = f'select count(pg_terminate_backend(pid)) from pg_stat_activity where {OURS}'
        assert connection.execute(query).fetchone() != (0,)


def cancel_statements(soak: Soak) -> None:
    with soak.admin() as connection:
        for _ in range(20):
            query = f'select pg_cancel_backend(pid) from pg_stat_activity where {OURS}'
            connection.execute(query)
            soak.wait_for_more(CLIENT_COUNT)


def lock_table(soak: Soak) -> None:
    """Hold a lock until statements have timed out, while a worker and another service start."""
    with soak.admin() as connection, connection.transaction():
        connection.execute('lock table benefit_usage')
        replace_worker(soak)
        other = soak.start(API_PORT='0')
        soak.apis.insert(0, other)
        assert 'the database cannot be checked: ' in other.output()
        assert other.get(LIVE).status_code == 200
        soak.wait_for_outcome(TIMEOUT)
        soak.wait_for_live()
    assert other.get('/venues/top-benefits').status_code == 200
    assert other.stop() == 0


def fill_pool(soak: Soak) -> None:
    """Let more wait behind a lock than may wait."""
    inside = WORKERS * (POOL_SIZE + MAX_WAITING)
    assert crowd_behind_lock(soak, 2 * inside)[OVERLOADED] >= inside


def crowd_behind_lock(soak: Soak, number: int) -> Counter[str]:
    """Let some requests wait behind a lock; returns how many ended how."""
    paths = [f'/venues/{n}/inactivity-periods?timestamp=2026-01-01' for n in range(number)]
    with soak.admin() as connection, connection.transaction():
        connection.execute('lock table benefit_usage')
        found = soak.crowd(paths)
        soak.wait_for_live()
    assert set(found) <= {OVERLOADED, TIMEOUT, '200', '404 entity-not-found'}
    return found


def freeze_backends(soak: Soak) -> None:
    """Stop the sessions' processes until the service has given up on one."""
    with stopped(soak.pids()):
        soak.wait_for_outcome(TIMEOUT)
        soak.wait_for_live()


def freeze_database(soak: Soak) -> None:
    """Stop all of PostgreSQL, with a crowd at /ready."""
    server = psutil.Process(soak.server.server_pid)
    with stopped([server.pid, *(child.pid for child in server.children())]), ExitStack() as stack:
        for _ in range(200):
            connect(soak.api, stack).sendall(request('/ready') * 20)
        soak.wait_for_outcome(TIMEOUT)
        soak.wait_for_live()


def crowd_slow_report(soak: Soak) -> None:
    """Ask for the slow report from many sides, the same and different ones."""
    paths = [f'/venues/top-benefits?timestamp=2026-01-{n % 20 + 1:02}' for n in range(60)]
    found = soak.crowd(paths)
    assert found['200']
    assert set(found) <= {OVERLOADED, '200'}


def bad_clients(soak: Soak) -> None:
    """Be idle, stop in the middle of a request, read nothing, and hang up too early."""
    with ExitStack() as stack:
        for _ in range(60):
            connect(soak.api, stack)
        for _ in range(60):
            connect(soak.api, stack).sendall(soak.chance.choice([b'G', b'GET /live HTTP/1.1\r\nX']))
        read_nothing(soak, stack)
        for _ in range(HANG_UPS):
            client = connect(soak.api, stack)
            # closing resets the connection, as when a client dies
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            client.sendall(request('/venues/top-benefits?timestamp=2026-01-01'))
            if soak.chance.random() < 0.5:
                client.close()
        soak.wait_for_more()


def read_nothing(soak: Soak, stack: ExitStack) -> None:
    """Ask from several sides for as much as the service takes, and do not read it."""
    for _ in range(5):
        client = connect(soak.api, stack)
        client.setblocking(False)
        with suppress(BlockingIOError):  # the service reads no more until its answers are read
            while client.send(request('/openapi.json') * 100):
                pass


def kill_worker(soak: Soak) -> None:
    replace_worker(soak)
    # nobody asks the dead any more
    soak.wait_for_more(20 * CLIENT_COUNT)


def replace_worker(soak: Soak) -> None:
    # always the youngest, so that the other one lives through everything
    *_, killed = soak.workers()
    killed.kill()
    wait_for(lambda: len(soak.workers()) == WORKERS and killed not in soak.workers())


def fill_temporary_folder(soak: Soak) -> None:
    """Start a worker, and hold answers that nobody reads, where no file can be written."""
    with small_file_system(soak.folder), ExitStack() as stack:
        # before it is full, as Python would look for another one
        read_nothing(soak, stack)
        fill(soak.folder)
        replace_worker(soak)
        soak.wait_for_more()
        assert [path.name for path in soak.folder.iterdir()] == ['filling']


def leave_log_unread(soak: Soak) -> None:
    """Let a worker start, and the parent tell of it, while nobody reads the log."""
    with stopped([soak.api.collector.pid]):
        soak.wait_for_more(500)  # more lines than a pipe takes
        replace_worker(soak)
        soak.wait_for_more()


def replace_service(soak: Soak) -> None:
    """Reload it: new workers take the place of the old ones."""
    old = {worker.pid for worker in workers(soak.api)}
    soak.api.process.send_signal(signal.SIGHUP)
    wait_for(lambda: old.isdisjoint(worker.pid for worker in workers(soak.api)))
    soak.wait_for_more(10 * CLIENT_COUNT)


class Fault(NamedTuple):
    """What goes wrong, how requests may end meanwhile that do not end well, and /live's limit."""

    make: Callable[[Soak], None]
    allowed: tuple[str, ...] = ()
    live_s: float = LIVE_S


FAULTS = (
    Fault(restart_database, (UNAVAILABLE, OVERLOADED)),
    Fault(crash_backend, (UNAVAILABLE, OVERLOADED)),
    Fault(end_backends),
    Fault(cancel_statements, (TIMEOUT,)),
    Fault(lock_table, (TIMEOUT, OVERLOADED, CUT_OFF)),
    Fault(fill_pool, (TIMEOUT, OVERLOADED)),
    Fault(freeze_backends, (TIMEOUT, OVERLOADED)),
    Fault(freeze_database, (TIMEOUT, OVERLOADED, UNAVAILABLE)),
    Fault(crowd_slow_report, (OVERLOADED,)),
    Fault(bad_clients),
    Fault(kill_worker, (CUT_OFF,)),
    Fault(fill_temporary_folder, (CUT_OFF,)),
    Fault(leave_log_unread, (CUT_OFF,)),
)


def random_faults(chance: random.Random, minutes: float) -> Iterator[Fault]:
    """Yield faults until the time is over, each of them at least once."""
    # never again: what the others leave behind has to be there at the end
    yield Fault(replace_service)
    end = time.monotonic() + 60 * minutes
    is_first_round = True
    while True:
        for fault in chance.sample(FAULTS, len(FAULTS)):
            if not is_first_round and time.monotonic() > end:
                return
            yield fault
        is_first_round = False


@pytest.fixture
def soak(tmp_path: Path, unused_port: int) -> Iterator[Soak]:
    """Return a service on a server of its own with the sample data."""
    with EmbeddedServer() as server:
        load(server.url(), 'schema.sql', 'sample_data.sql', 'indexes.sql')
        folder = tmp_path / 'temporary'
        folder.mkdir()
        settings = SETTINGS | {
            'DATABASE_URL': server.url(),
            'API_PORT': str(unused_port),
            'TMPDIR': str(folder),
        }
        running = Soak(
            server, lambda **more: ApiProcess(tmp_path, settings | more, is_piped=True), folder
        )
        yield running
        for api in running.apis:
            api.stop()


@pytest.mark.slow
# a loaded machine takes several times the three minutes that it takes by itself
@pytest.mark.timeout(900 + 120 * MINUTES)
def test_random_faults_spoil_no_answer_and_leave_nothing_behind(soak: Soak) -> None:
    began = time.monotonic()
    print(f'\nSOAK_SEED={SEED} MINUTES={MINUTES:g}')
    soak.learn()
    with soak:
        soak.wait_for_more(1000)
    assert soak.wrong == []
    before = soak.figures()
    print(f'begin: {before}')

    with soak:
        soak.wait_for_more()
        for fault in random_faults(soak.chance, MINUTES):
            soak.judge()
            begun = time.monotonic()
            try:
                fault.make(soak)
            except pytest.skip.Exception as ex:
                print(f'{fault.make.__name__} is left out: {ex}')
            ended = time.monotonic()
            soak.wait_for_more()
            found = soak.judge(fault.allowed, begun, ended, fault.live_s)
            print(
                f'{time.monotonic() - began:5.0f} s  {fault.make.__name__:21}'
                f' {ended - begun:4.1f} s  {soak.found.total():7,} requests'
                f' {soak.memory() / MIB:5.1f} MiB  {LIVE} in {soak.slowest_live_s:.2f} s'
                f'  {dict(found)}',
                flush=True,
            )
            assert soak.wrong == [], fault.make.__name__
    with soak:
        soak.wait_for_more(1000)
    assert soak.wrong == []
    print(f'all: {dict(soak.found)}')

    for _ in until():  # what is still ending, or beginning, has time to
        after = soak.figures()
        left = {name: after[name] - before[name] for name in MARGINS}
        if all(left[name] <= margin for name, margin in MARGINS.items()):
            break
    print(f'end: {after}')
    assert all(left[name] <= margin for name, margin in MARGINS.items()), (
        f'left behind: {left}, allowed: {MARGINS}; before: {before}, after: {after}'
    )
    for api in soak.apis:
        assert api.stop() == 0
        errors = [line for line in api.output().splitlines() if 'level=error' in line]
        assert [line for line in errors if 'was sent SIGKILL' not in line] == []
        assert 'Traceback' not in api.output()
    # PostgreSQL ends a session's process a moment after its client has gone
    wait_for(lambda: soak.pids() == [])
