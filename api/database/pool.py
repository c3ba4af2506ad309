"""A connection pool that retries a statement once after a lost connection or a conflict."""

import atexit
import logging
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter, sleep

import psycopg
from psycopg.errors import AdminShutdown, DeadlockDetected, SerializationFailure
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from api.config import Settings
from api.database.connection import GRACE_S, Connection, connection_parameters
from api.database.queries import Query, Values
from api.telemetry import metrics
from api.telemetry.metrics import Timings

# the row of a query: the JSON body, and the parameter whose id does not exist, or None
Answer = tuple[bytes, str | None]

# below warning, the pool logs every request, which takes time
logging.getLogger('psycopg.pool').setLevel(logging.WARNING)


class Pool:
    """A pool of at most `size` connections. It starts without waiting for the database.

    Raises:
        ConfigError: The settings name no database.
    """

    def __init__(self, settings: Settings, size: int) -> None:
        self._limits_s = settings.pool_timeout_s, settings.statement_timeout_s + GRACE_S
        self._size = size
        # a set, because the addition of numbers is not atomic in threads
        self._running: set[object] = set()
        self._pool = ConnectionPool(
            connection_class=Connection,
            kwargs=connection_parameters(settings),
            min_size=1,
            max_size=size,
            max_waiting=settings.pool_max_waiting,
            max_lifetime=settings.pool_lifetime_s,
            # after this timeout, the pool stops its attempts to connect; check() starts new ones
            reconnect_timeout=settings.pool_timeout_s,
            reconnect_failed=ConnectionPool.check,
            configure=lambda connection: connection.set_up(settings),
            open=True,
        )
        atexit.register(self._pool.close)

    def fetch(self, query: Query, values: Values, timings: Timings) -> Answer:
        """Run a query in one round trip, and add the time that this takes to the timings.

        Raises:
            psycopg_pool.TooManyRequests: Too many requests wait for a connection, or all
                connections were in use for pool_timeout_s.
            psycopg.errors.QueryCanceled: The query exceeded the statement timeout.
            psycopg.OperationalError: The database is unavailable.
            psycopg.Error: PostgreSQL rejects the query.
        """
        ordered = [values[each.name] for each in query.parameters]
        return self._run(query.sql, ordered, timings, *self._limits_s)

    def ping(self) -> None:
        """Check that the database responds.

        This succeeds if all connections are in use. If these time out, a later ping fails.

        Raises:
            psycopg.OperationalError: The database does not respond in time.
        """
        with suppress(TooManyRequests):
            # usually less than a second in total, since probes often wait no longer
            self._run(b'select 1', (), Timings(), timeout_s=0.5, patience_s=0.4)

    def _run(
        self, sql: bytes, values: Sequence, timings: Timings, timeout_s: float, patience_s: float
    ) -> tuple:
        """Run a read-only statement. Retry it once after a lost connection or a conflict."""
        may_retry = True
        while True:
            statement = object()
            requested = perf_counter()
            connection = self._get_connection(timeout_s)
            self._running.add(statement)
            started = perf_counter()
            timings.pool_s += started - requested
            connection.patience_s = patience_s
            try:
                return connection.execute(sql, values).fetchone()
            except psycopg.OperationalError as ex:
                # AdminShutdown counts too: PostgreSQL may end a parallel worker before the
                # session itself
                is_lost = connection.broken or isinstance(ex, AdminShutdown)
                if is_lost:
                    self._pool.drain()  # the other connections are probably lost too
                # SerializationFailure: among others, a conflict with recovery on a standby
                is_conflict = isinstance(ex, DeadlockDetected | SerializationFailure)
                if not may_retry or not (is_lost or is_conflict):
                    raise
            finally:
                timings.database_s += perf_counter() - started
                self._pool.putconn(connection)
                if self._pool.get_stats()['requests_waiting']:
                    sleep(0)  # one of them uses the connection before this response is written
                # after that one is counted: fewer statements than connections look like no database
                self._running.discard(statement)
            may_retry = False
            metrics.retries.inc()

    def _get_connection(self, timeout_s: float) -> Connection:
        try:
            return self._pool.getconn(timeout_s)
        except (PoolTimeout, TooManyRequests) as ex:
            # too many may wait before the pool has opened all connections
            expected = self._size if isinstance(ex, PoolTimeout) else 1
            if len(self._running) < expected:
                raise PoolTimeout('the pool cannot open a connection') from ex
            raise TooManyRequests('all connections are in use') from ex
