"""Slow queries: identical requests share a result, and too many requests are rejected."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic

import pytest
from psycopg.errors import QueryCanceled
from psycopg_pool import TooManyRequests

from api.database.pool import Answer
from api.database.queries import FOLDER, load_query
from api.database.slow import SlowQueries
from api.telemetry import metrics
from api.telemetry.metrics import Timings
from tests.database.pools import open_pool, patient
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.waiting import DEADLINE_S, wait_for

QUERY = load_query(FOLDER / 'top_benefits.sql')


class Clients:
    """Threads that run slow queries."""

    def __init__(self, stack: ExitStack, url: str, **limits: object) -> None:
        settings = patient(url, **limits)
        # longer than the test, so that the running query is not cancelled
        of_pool = patient(url, **limits | {'statement_timeout_s': 2.0 * DEADLINE_S})
        self._pool = stack.enter_context(open_pool(of_pool))
        self._slow = SlowQueries(self._pool, settings)
        self._threads = stack.enter_context(ThreadPoolExecutor(8))

    def ask(self, day: int) -> Answer:
        """Fetch the report as of a day."""
        return self._slow.fetch(QUERY, {'timestamp': f'2024-07-{day:02}'}, Timings())

    def begin(self, day: int) -> Future[Answer]:
        """Fetch the report in a thread."""
        return self._threads.submit(self.ask, day)

    def waiting(self) -> int:
        """Return the number of requests that wait for a connection or an identical request."""
        for_connections = self._pool._pool.get_stats()['requests_waiting']
        running = list(self._slow._running.values())
        return for_connections + sum(len(first._condition._waiters) for first in running)


@pytest.fixture
def start(rows: Rows, database_url: str) -> Iterator[Callable[..., Clients]]:
    """Return a function that starts clients; its arguments are settings of the slow queries."""
    with ExitStack() as stack:
        yield lambda **limits: Clients(stack, database_url, **limits)


def running(rows: Rows) -> int:
    """Return the number of running queries."""
    query = (
        "select count(*) from pg_stat_activity where query like '-- name: top_benefits%'"
        " and datname = current_database() and state = 'active'"
    )
    return rows.connection.execute(query).fetchone()[0]


def test_identical_requests_run_one_statement(
    rows: Rows, database_url: str, start: Callable[..., Clients]
) -> None:
    clients = start(pool_size=2)
    shared = metrics.shared._value.get()
    with locked_uses(database_url):
        answers = [clients.begin(1)]
        wait_until_busy(rows, 'top')
        answers += [clients.begin(1) for _ in range(3)]
        wait_for(lambda: clients.waiting() == 3)
        assert running(rows) == 1
        other = clients.begin(2)
        wait_until_busy(rows, 'top', 2)
    first = answers[0].result(DEADLINE_S)
    assert all(answer.result(DEADLINE_S) is first for answer in answers)
    assert other.result(DEADLINE_S) is not first
    assert metrics.shared._value.get() == shared + 3
    # the result is not cached
    assert clients.ask(1) is not first


def test_few_run_at_once_and_one_too_many_is_refused(
    rows: Rows, database_url: str, start: Callable[..., Clients]
) -> None:
    clients = start(pool_size=1, pool_max_waiting=1)
    with locked_uses(database_url):
        answers = [clients.begin(1)]
        wait_until_busy(rows, 'top')
        answers += [clients.begin(1), clients.begin(2)]
        wait_for(lambda: clients.waiting() == 2)
        with pytest.raises(TooManyRequests):
            clients.ask(3)
        assert running(rows) == 1
    for answer in answers:
        assert bytes(answer.result(DEADLINE_S)[0]).startswith(b'[')


def test_every_wait_has_a_timeout(
    rows: Rows, database_url: str, start: Callable[..., Clients]
) -> None:
    clients = start(pool_size=1, pool_timeout_s=0.4, statement_timeout_s=0.4)
    with locked_uses(database_url):
        first = clients.begin(1)
        wait_until_busy(rows, 'top')
        begun = monotonic()
        with pytest.raises(TooManyRequests):
            clients.ask(2)  # a connection
        assert monotonic() - begun >= 0.4
        with pytest.raises(TooManyRequests):
            clients.ask(1)  # an identical answer
        assert monotonic() - begun >= 0.4 + 1.2
        assert not first.done()
    first.result(DEADLINE_S)


def test_each_request_raises_an_exception_of_its_own(
    rows: Rows, database_url: str, start: Callable[..., Clients]
) -> None:
    clients = start()
    with locked_uses(database_url):
        answers = [clients.begin(1)]
        wait_until_busy(rows, 'top')
        answers += [clients.begin(1) for _ in range(3)]
        wait_for(lambda: clients.waiting() == 3)
        rows.connection.execute(
            'select pg_cancel_backend(pid) from pg_stat_activity'
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        raised = [answer.exception(DEADLINE_S) for answer in answers]
    assert [type(each) for each in raised] == [QueryCanceled] * 4
    assert all(str(each).startswith('canceling statement due to') for each in raised)
    assert len({id(each) for each in raised}) == 4
