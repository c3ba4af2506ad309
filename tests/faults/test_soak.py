"""Load while one fault follows another: every answer stays right, and nothing is left behind.

Each fault is made once, in random order. MINUTES makes them go on, and SOAK_SEED repeats an order.
"""

import json
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import IncompleteRead
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.faults.load import Asked, Load
from tests.server.crowd import Crowd, ask, read, request
from tests.support.postgres import suspended
from tests.support.service import ApiProcess, workers
from tests.support.waiting import until, wait_for
from tools.embedded import EmbeddedServer, load

MINUTES = float(os.environ.get('MINUTES') or 0)
SEED = int(os.environ.get('SOAK_SEED') or random.SystemRandom().randrange(10**6))
WORKERS, POOL_SIZE, SLOW_REPORTS = 2, 4, 1
SETTINGS = {
    'API_WORKERS': str(WORKERS),
    'API_POOL_SIZE': str(POOL_SIZE),
    'API_SLOW_REPORTS_AT_ONCE': str(SLOW_REPORTS),
    # short, since some faults last until a request has failed, and yet long for a loaded machine
    'API_POOL_TIMEOUT_S': '4',
    'API_STATEMENT_TIMEOUT_S': '5',
}
LIVE = '/live'
# the promise is a second; a loaded machine has ten
LIVE_S = 10
# between two requests of a client: a steady load, and not as much as the machine can do
PAUSE_S = 0.01
CLIENTS = 8
TODAY = datetime.now(UTC).date()
PATHS = [
    f'{path}timestamp={TODAY - timedelta(days=days)}'
    for days in (1, 2, 40)
    for path in (
        '/venues/top-benefits?',
        *(f'/venues/{venue}/inactivity-periods?' for venue in (1, 2, 11, 29)),
        *(f'/venues/1/available-benefits?personId={person}&' for person in (1, 2, 12, 400)),
    )
]
OURS = "application_name like 'membership-benefits-api/%' and backend_type = 'client backend'"

RIGHT, WRONG, CUT_OFF = 'right', 'wrong', 'cut off'
UNAVAILABLE, OVERLOADED, TIMEOUT = 'database-unavailable', 'overloaded', 'statement-timeout'

MIB = 2**20
# of all processes together: what Python and libc keep for later, which clients who read nothing
# raise most and once; what is kept by mistake for each of thousands of requests is more
MARGINS = {'memory': 48 * MIB, 'files': 8}


class Soak:
    """A service under load, and what it answered.

    Attributes:
        server: Its database server.
        api: The service.
        chance: Every choice comes from it.
    """

    def __init__(self, server: EmbeddedServer, api: ApiProcess) -> None:
        self.server = server
        self.api = api
        self.chance = random.Random(SEED)
        self._first_bodies: dict[tuple[int, str], bytes] = {}
        self._loads: list[Load] = []

    @contextmanager
    def load(self) -> Iterator[None]:
        """Ask all the time in the block of a with statement."""

        def path(number: int) -> str:
            time.sleep(PAUSE_S)
            return PATHS[number % len(PATHS)]

        def live(_: int) -> str:
            time.sleep(PAUSE_S)
            return LIVE

        new = {'Connection': 'close'}
        self._loads = [
            Load(self.api.url, path, clients=CLIENTS - 2),
            Load(self.api.url, path, clients=2, headers=new | {'Accept-Encoding': 'gzip'}),
            Load(self.api.url, live, clients=1, headers=new),
        ]
        with ExitStack() as stack:
            for each in self._loads:
                stack.enter_context(each)
            yield
        self.judge()

    def wait_for_more(self, number: int = 50) -> None:
        """Wait until each kind of client has got so many answers more."""
        for each in self._loads:
            each.wait_for(number)

    def wait_for_outcome(self, wanted: str) -> None:
        """Wait until a request ends so; /live has to be answered meanwhile."""
        reports, live = self._loads[0], self._loads[-1]
        seen = len(reports.asked)
        wait_for(lambda: wanted in {outcome(one) for one in reports.asked[seen:]})
        live.wait_for(5)

    def judge(self, allowed: tuple[str, ...] = (), over: float = 0.0) -> Counter[str]:
        """Look at all requests that have ended, and forget them; returns how they ended.

        Args:
            allowed: How those may have failed that were sent before a fault was over.
            over: When it was.
        """
        found = Counter()
        for number, each in enumerate(self._loads):
            asked = each.asked[:]
            del each.asked[: len(asked)]
            for one in asked:
                ended = outcome(one)
                if ended == RIGHT and one.body != self._first_bodies.setdefault(
                    (number, one.path), one.body
                ):
                    ended = WRONG
                may_fail = one.at <= over and ended in allowed
                if one.path == LIVE:
                    assert one.seconds < LIVE_S, one
                    may_fail = may_fail and ended == CUT_OFF
                assert ended == RIGHT or may_fail, (ended, over - one.at, one)
                found[ended] += 1
        return found

    def make(self, fault: Callable[['Soak'], None]) -> None:
        """Make a fault, and look at the requests during and after it."""
        self.judge()
        began = time.monotonic()
        fault(self)
        over = time.monotonic()
        self.wait_for_more()
        found = self.judge(FAULTS[fault], over)
        memory = self.figures()['memory'] / MIB
        print(f'{fault.__name__:18} {over - began:5.1f} s {memory:6.1f} MiB  {dict(found)}')

    def workers(self) -> list[psutil.Process]:
        """Return the workers, the oldest first."""
        return sorted(workers(self.api), key=lambda worker: (worker.create_time(), worker.pid))

    def figures(self) -> dict[str, int]:
        """Return what the service holds: bytes of its own, and files."""
        processes = [psutil.Process(self.api.process.pid), *self.workers()]
        return {
            'memory': sum(process.memory_full_info().uss for process in processes),
            'files': sum(process.num_fds() for process in processes),
        }

    def admin(self) -> psycopg.Connection:
        return psycopg.connect(self.server.url(), autocommit=True)

    def pids(self) -> list[int]:
        """Return the processes of the service's sessions."""
        with self.admin() as connection:
            found = connection.execute(f'select pid from pg_stat_activity where {OURS}')
            return [pid for (pid,) in found]


def outcome(one: Asked) -> str:
    """Return in one word how a request ended."""
    if one.failure:
        is_cut_off = isinstance(one.failure, ConnectionError | IncompleteRead)
        return CUT_OFF if is_cut_off else type(one.failure).__name__
    return RIGHT if one.status == 200 else json.loads(one.body)['type'].rsplit('/', 1)[1]


def restart_database(soak: Soak) -> None:
    """Stop PostgreSQL at once, leave it down until that is noticed, and start it."""
    soak.server.child_process.send_signal(signal.SIGQUIT)
    soak.server.child_process.wait()
    soak.server.child_process = None
    soak.wait_for_outcome(UNAVAILABLE)
    soak.server.start()


def crash_backend(soak: Soak) -> None:
    """Kill a session's process, upon which PostgreSQL ends all others and recovers."""
    with soak.admin() as connection:
        os.kill(soak.chance.choice(soak.pids()), signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            connection.execute('select pg_sleep(60)')

    def is_back() -> bool:
        with suppress(psycopg.OperationalError):
            soak.admin().close()
            return True
        return False

    wait_for(is_back)


def end_sessions(soak: Soak) -> None:
    with soak.admin() as connection:
        connection.execute(f'select pg_terminate_backend(pid) from pg_stat_activity where {OURS}')


def cancel_statements(soak: Soak) -> None:
    with soak.admin() as connection:
        for _ in range(20):
            connection.execute(f'select pg_cancel_backend(pid) from pg_stat_activity where {OURS}')
            soak.wait_for_more(1)


def lock_table(soak: Soak) -> None:
    """Hold a lock until a statement has timed out, while a worker starts."""
    with soak.admin() as connection, connection.transaction():
        connection.execute('lock table benefit_usage')
        replace_worker(soak)
        soak.wait_for_outcome(TIMEOUT)


def silence_database(soak: Soak) -> None:
    """Stop all of PostgreSQL's processes for a while, with a crowd at /ready."""
    with suspended(soak.server), Crowd(soak.api.port) as crowd:
        for client in crowd.connect(200):
            ask(client, '/ready')
        soak.wait_for_outcome(TIMEOUT)


def crowd_slow_report(soak: Soak) -> None:
    """Ask for the slow report from many sides, the same and different ones."""
    with Crowd(soak.api.port) as crowd:
        clients = crowd.connect(60)
        for number, client in enumerate(clients):
            ask(client, f'/venues/top-benefits?timestamp=2026-01-{number % 20 + 1:02}')
        assert {read(client)[0] for client in clients} <= {200, 503}


def bad_clients(soak: Soak) -> None:
    """Be idle, stop in the middle of a request, read nothing, and hang up too early."""
    with Crowd(soak.api.port) as crowd:
        crowd.connect(60)
        for client in crowd.connect(60):
            client.sendall(b'GET /live HTTP/1.1\r\nX')
        for client in crowd.connect(5):
            client.setblocking(False)
            with suppress(BlockingIOError):  # the service reads no more until its answers are read
                while client.send(request('/openapi.json') * 100):
                    pass
        for client in crowd.connect(10):
            # closing resets the connection, as when a client dies
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            ask(client, '/venues/top-benefits?timestamp=2026-01-01')
            client.close()
        soak.wait_for_more()


def kill_worker(soak: Soak) -> None:
    replace_worker(soak)
    soak.wait_for_more()  # so that no client asks the dead worker any more


def replace_worker(soak: Soak) -> None:
    """Kill the youngest worker, so that the other one lives through everything."""
    *_, killed = soak.workers()
    killed.kill()
    wait_for(lambda: len(soak.workers()) == WORKERS and killed not in soak.workers())


# how requests may fail that are sent before the fault is over
FAULTS = {
    restart_database: (UNAVAILABLE, OVERLOADED),
    crash_backend: (UNAVAILABLE, OVERLOADED),
    end_sessions: (),
    cancel_statements: (TIMEOUT,),
    lock_table: (TIMEOUT, OVERLOADED, CUT_OFF),
    silence_database: (TIMEOUT, OVERLOADED, UNAVAILABLE),
    crowd_slow_report: (OVERLOADED,),
    bad_clients: (),
    kill_worker: (CUT_OFF,),
}


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    """Return a service on a server of its own with the sample data."""
    with EmbeddedServer() as server:
        load(server.url(), 'schema.sql', 'sample_data.sql', 'indexes.sql')
        api = ApiProcess(tmp_path, SETTINGS | {'DATABASE_URL': server.url()})
        yield Soak(server, api)
        api.stop()


@pytest.mark.slow
# a loaded machine takes several times the minute that it takes by itself
@pytest.mark.timeout(600 + 120 * MINUTES)
def test_faults_spoil_no_answer_and_leave_nothing_behind(soak: Soak) -> None:
    print(f'\nSOAK_SEED={SEED} MINUTES={MINUTES:g}')
    with soak.load():
        soak.wait_for_more(150)
    before = soak.figures()
    end = time.monotonic() + 60 * MINUTES
    with soak.load():
        while True:
            for fault in soak.chance.sample(list(FAULTS), len(FAULTS)):
                soak.make(fault)
            if time.monotonic() > end:
                break
    for _ in until():  # what is still ending has time to
        after = soak.figures()
        if all(after[name] - before[name] <= margin for name, margin in MARGINS.items()):
            break
    else:
        raise AssertionError(f'{before} before, {after} after, allowed more: {MARGINS}')
    wait_for(lambda: len(soak.pids()) <= WORKERS * (POOL_SIZE + SLOW_REPORTS))
    assert soak.api.stop() == 0
    errors = [line for line in soak.api.output().splitlines() if 'level=error' in line]
    assert [line for line in errors if 'was sent SIGKILL' not in line] == []
    assert 'Traceback' not in soak.api.output()
    # PostgreSQL ends a session's process a moment after its client has gone
    wait_for(lambda: soak.pids() == [])
