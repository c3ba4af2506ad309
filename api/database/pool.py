"""A pool of connections: one round trip for an answer, one more try if a connection breaks."""

import logging
from collections.abc import Callable, Sequence
from time import perf_counter

import psycopg
from psycopg.errors import AdminShutdown, DeadlockDetected, QueryCanceled, SerializationFailure
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from api.config import Settings
from api.database.connection import GRACE_S, Connection, connection_parameters
from api.database.queries import Query, Values
from api.telemetry import metrics
from api.telemetry.timings import Timings

# the columns of a query: the body, and the parameter that names nothing
Answer = tuple[bytes, str | None]

# seconds that a ping waits for a connection, and then for its answer
PING_S = 1.0
# why PostgreSQL ends a statement that would succeed if it ran again: a deadlock, a standby's replay
PASSING = (DeadlockDetected, SerializationFailure)

# its warnings say why there is no connection; it also logs every request, which takes time
logging.getLogger('psycopg.pool').setLevel(logging.WARNING)


class Pool:
    """A pool of read-only connections. It needs no database to start.

    Args:
        settings: Where the database is, and how long to wait for it.
        size: The maximum number of connections.
        before_waiting: Called by a thread that is about to wait.

    Raises:
        ConfigError: The settings name no database.
    """

    def __init__(self, settings: Settings, size: int, before_waiting: Callable[[], None]) -> None:
        self._limits_s = settings.pool_timeout_s, settings.statement_timeout_s + GRACE_S
        self._size = size
        self._before_waiting = before_waiting
        self._in_use: set[Connection] = set()
        self._pool = ConnectionPool(
            connection_class=Connection,
            kwargs=connection_parameters(settings),
            min_size=1,
            max_size=size,
            max_waiting=settings.pool_max_waiting // 3,  # see SlowQueries
            max_lifetime=settings.pool_lifetime_s,
            # the pauses between attempts never grow: after these seconds the pool begins anew
            reconnect_timeout=settings.pool_timeout_s,
            reconnect_failed=ConnectionPool.check,
            configure=lambda connection: connection.set_up(settings, before_waiting),
            open=True,
        )

    def fetch(self, query: Query, values: Values, timings: Timings) -> Answer:
        """Run a query in one round trip.

        Args:
            query: The query.
            values: A value for each of its parameters.
            timings: Where to add the time that this takes.

        Raises:
            psycopg_pool.TooManyRequests: Too many requests wait, or this one waited for too long.
            psycopg.errors.QueryCanceled: The query took too long, or the server does not answer.
            psycopg.OperationalError: The database cannot be used now.
            psycopg.Error: PostgreSQL refuses the query.
        """
        ordered = [values[each.name] for each in query.parameters]
        return self._run(query.sql, ordered, timings, *self._limits_s)

    def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            psycopg.OperationalError: It gives none in time.
        """
        try:
            self._run(b'select 1', (), Timings(), PING_S, PING_S)
        except QueryCanceled as ex:
            raise psycopg.OperationalError('no answer') from ex

    def _run(
        self, sql: bytes, values: Sequence, timings: Timings, timeout_s: float, patience_s: float
    ) -> tuple:
        """Run a statement that only reads, and once more if it failed for a passing reason."""
        may_retry = True
        while True:
            asked = perf_counter()
            connection = self._get_connection(timeout_s)
            self._in_use.add(connection)
            started = perf_counter()
            timings.pool_s += started - asked
            connection.patience_s = patience_s
            try:
                return connection.execute(sql, values).fetchone()
            except psycopg.OperationalError as ex:
                # PostgreSQL may end a parallel worker first, and the connection's process next
                is_lost = connection.broken or isinstance(ex, AdminShutdown)
                if is_lost:
                    self._pool.drain()  # the other connections may be broken too
                if not may_retry or not (is_lost or isinstance(ex, PASSING)):
                    raise
            finally:
                timings.database_s += perf_counter() - started
                self._in_use.discard(connection)
                self._pool.putconn(connection)
            may_retry = False
            metrics.retries.inc()

    def _get_connection(self, timeout_s: float) -> Connection:
        try:
            if self._pool.get_stats()['pool_available']:
                return self._pool.getconn(timeout_s)
            self._before_waiting()
            with metrics.waiting.track_inprogress():
                return self._pool.getconn(timeout_s)
        except PoolTimeout as ex:
            if len(self._in_use) < self._size:
                raise  # not all connections are in use: no more can be made
            raise TooManyRequests('all connections are in use') from ex
