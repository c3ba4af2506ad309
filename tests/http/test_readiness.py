"""The readiness probe: one request pings, and an unresponsive database is reported soon."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import psycopg
import pytest

from api.database.pool import Pool
from api.http.readiness import Readiness
from tests.database.pools import open_pool, patient
from tests.support.postgres import suspended
from tests.support.waiting import until, wait_for
from tools.embedded import EmbeddedServer

# the limit is two seconds, and one more for a busy machine
SILENT_S = 3.0


@pytest.fixture(scope='module')
def own_server() -> Iterator[EmbeddedServer]:
    """Return a server that a test may suspend."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def pool(own_server: EmbeddedServer) -> Iterator[Pool]:
    """Return a pool with a long timeout for connections."""
    with open_pool(patient(own_server.url(), pool_timeout_s=10)) as opened:
        yield opened


class Counted:
    """Counts pings of a pool."""

    def __init__(self, pool: Pool) -> None:
        self.pings = 0
        self._pool = pool

    def __call__(self) -> None:
        self.pings += 1
        self._pool.ping()


def raised(check: Callable[[], None]) -> float:
    """Call a function until it raises; returns the seconds that this took."""
    begun = monotonic()
    for _ in until():
        try:
            check()
        except psycopg.OperationalError:
            return monotonic() - begun
    raise AssertionError('no error')


def test_result_is_cached_for_a_second(pool: Pool) -> None:
    ping = Counted(pool)
    shared = Readiness(ping)
    begun = monotonic()
    for _ in until():
        shared.check()
        if ping.pings == 2:
            break
    assert 1 < monotonic() - begun < SILENT_S


def test_silent_database_is_reported_to_every_caller(
    own_server: EmbeddedServer, pool: Pool
) -> None:
    shared = Readiness(pool.ping)
    shared.check()
    with suspended(own_server):
        for _ in range(2):  # the second time, there is no connection either
            with ThreadPoolExecutor(8) as callers:
                seconds = list(callers.map(raised, [shared.check] * 8))
            assert max(seconds) < SILENT_S
            # the next call pings
            wait_for(lambda: monotonic() > shared._expires_at)
            begun = monotonic()
            with pytest.raises(psycopg.OperationalError) as refused:
                shared.check()
            assert refused.type is psycopg.OperationalError  # 503; QueryCanceled would be 504
            assert monotonic() - begun < SILENT_S
            wait_for(lambda: monotonic() > shared._expires_at)

    def is_back() -> bool:
        try:
            shared.check()
        except psycopg.OperationalError:
            return False
        return True

    wait_for(is_back)
