"""The connections to PostgreSQL, and one round trip for each report."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import ConnectionInfo
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import ConnectionPool, PoolTimeout

from api.config import ConfigError, Settings
from api.errors import Problem
from api.functions import Function, FunctionFileError
from api.metrics import Metrics
from api.tracing import Timings

T = TypeVar('T')

APPLICATION_NAME = 'membership-benefits-api'
MISSING_INDEXES = Path(__file__).parent.parent / 'db' / 'missing_indexes.sql'
# the server enforces the statement timeout; one that does not do it in this time has stopped
GRACE_S = 1.0
# a request that had to wait already still gets this long for a connection
LEAST_POOL_TIMEOUT_S = 0.1
# how a server that vanished is noticed: libpq's parameters, unless the URL has them
LIVENESS = {
    'keepalives_idle': 5,
    'keepalives_interval': 1,
    'keepalives_count': 3,
    'tcp_user_timeout': 5000,
}

# its lines name hosts and users; what matters of them is logged here and by api.errors
logging.getLogger('psycopg.pool').setLevel(logging.CRITICAL)

# what a server says before it closes a connection
ENDED = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
    psycopg.errors.IdleSessionTimeout,
)


class Answer(NamedTuple):
    """What a function returned: the body where libpq put it, and the bind that names nothing."""

    body: memoryview
    missing: str | None


class ViewLoader(Loader):
    """Loads JSON as the bytes that came: not parsed, not even copied out of libpq's result."""

    def load(self, data: Buffer) -> Buffer:
        """Return the view of the value, which keeps the result alive."""
        return data


class Session(psycopg.Connection):
    """A connection that does not wait for ever for an answer.

    Attributes:
        patience_s: The seconds it waits; None for ever.
        connected_at: When it was made, by time.monotonic().
    """

    patience_s: float | None = None
    connected_at: float = -math.inf

    def wait(self, *args: Any, **options: Any) -> Any:
        """Wait for the server (called by psycopg for every exchange with it).

        Raises:
            psycopg.errors.QueryCanceled: The server did not answer in time; the session is closed.
        """
        try:
            return super().wait(*args, **{'timeout': self.patience_s} | options)
        except psycopg.OperationalError as ex:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.close()
            raise psycopg.errors.QueryCanceled('no answer') from ex


class Database:
    """A pool of read-only sessions.

    Args:
        settings: Where the database is and how long to wait for it.
        worker: The number of the worker that it belongs to, for the sessions' name.
        metrics: Where retries and timeouts are counted.

    Raises:
        ConfigError: The settings name no database.
    """

    def __init__(
        self, settings: Settings, *, worker: int = 0, metrics: Metrics | None = None
    ) -> None:
        if not settings.database_url:
            raise ConfigError('no database: set DATABASE_URL, or url in [database] of config.toml')
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._connection_parameters = {
            'fallback_application_name': f'{APPLICATION_NAME}/{worker}',
            'connect_timeout': settings.connect_timeout_s,
            **LIVENESS,
            **conninfo_to_dict(settings.database_url),
            'autocommit': True,
        }
        if not settings.prepare:
            self._connection_parameters['prepare_threshold'] = None
        self._lent: set[Session] = set()
        self._pool = ConnectionPool(
            connection_class=Session,
            kwargs=self._connection_parameters,
            # the pool hands out the connection that waited longest, so more than are needed
            # only keep more backends busy; what they are good for is to spread over replicas
            min_size=min(settings.pool_min_size, settings.pool_size),
            max_size=settings.pool_size,
            timeout=settings.pool_timeout_s,
            max_lifetime=settings.pool_lifetime_s,
            # never a long pause between two attempts: after these seconds the pool begins anew, and
            # is as large as it was soon after an outage
            reconnect_timeout=settings.pool_timeout_s,
            reconnect_failed=ConnectionPool.check,
            configure=self._configure,
            open=False,
        )

    def open(self) -> None:
        """Start connecting; does not wait and does not fail when there is no database yet."""
        self._pool.open()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _configure(self, session: Session) -> None:
        session.connected_at = monotonic()
        session.patience_s = self._settings.statement_timeout_s + GRACE_S
        if self._settings.session_settings:
            session.execute(
                "select set_config('default_transaction_read_only', 'on', false),"
                " set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false)",
                [str(round(self._settings.statement_timeout_s * 1000))],
            )
        session.adapters.register_loader('json', ViewLoader)
        # int2, int4 or int8 by value would make a statement and a plan of each
        session.adapters.register_dumper(int, Int8Dumper)

    def fetch(
        self, function: Function, values: dict[str, int | str | None], timings: Timings
    ) -> Answer:
        """Run a function in one round trip; prepared when a connection runs it first.

        Args:
            function: What to run.
            values: A value for each of its binds, by name.
            timings: Where to add the time that this takes.

        Raises:
            Problem: All connections stayed in use for too long.
            psycopg.errors.QueryCanceled: It ran into the statement timeout.
            psycopg.OperationalError: The database cannot be used now.
        """
        prepare = self._settings.prepare
        return self._read(
            lambda session: Answer(*run(session, function.sql, values, prepare=prepare)), timings
        )

    def answers(self) -> bool:
        """Tell whether the database answers a query.

        Raises:
            Problem: All connections stayed in use for too long.
        """
        try:
            self._read(lambda session: run(session, 'select 1', prepare=False), Timings())
        except psycopg.OperationalError:
            return False
        return True

    def _read(self, work: Callable[[Session], T], timings: Timings) -> T:
        """Do something that only reads, once more if it was not its fault that it failed.

        A connection that turns out to be broken costs no request: all that are idle are
        replaced, as they are likely to be broken too, and the work is done on a fresh one, made
        after the loss. Work that a standby had to cancel to keep up with its primary is done once
        more as well. What ran into the statement timeout is not.
        """
        first_lost_at = math.inf
        was_cancelled = False
        while True:
            try:
                return self._read_once(work, timings)
            except ConnectionLost as ex:
                if ex.connected_at > first_lost_at:
                    raise
                first_lost_at = min(first_lost_at, monotonic())
                self._pool.drain()
            except psycopg.errors.SerializationFailure:
                if was_cancelled:
                    raise
                was_cancelled = True
            self._metrics.retries.inc()

    def _read_once(self, work: Callable[[Session], T], timings: Timings) -> T:
        with self._session(timings) as session:
            begun = perf_counter()
            try:
                return work(session)
            except psycopg.errors.QueryCanceled:
                self._metrics.timeouts.inc()
                raise
            finally:
                timings.database_s += perf_counter() - begun

    @contextmanager
    def _session(self, timings: Timings) -> Iterator[Session]:
        """Lend a session of the pool."""
        asked = perf_counter()
        left_s = max(self._settings.pool_timeout_s - timings.pool_s, LEAST_POOL_TIMEOUT_S)
        try:
            session = self._pool.getconn(left_s)
        except PoolTimeout:
            # not all are lent, so the reason for waiting is that no more can be made
            if len(self._lent) < self._pool.max_size:
                raise
            raise Problem('overloaded') from None
        finally:
            timings.pool_s += perf_counter() - asked
        self._lent.add(session)
        try:
            yield session
        finally:
            self._lent.discard(session)
            self._pool.putconn(session)

    def report(self) -> None:
        """Tell the metrics how the pool is."""
        stats = self._pool.get_stats()
        self._metrics.connections.labels('open').set(stats['pool_size'])
        self._metrics.connections.labels('idle').set(stats['pool_available'])
        self._metrics.waiting.set(stats['requests_waiting'])

    def check(self, functions: Iterable[Function]) -> str | None:
        """Prepare functions on a connection of its own.

        Returns:
            The recommended indexes that are missing, if any are.

        Raises:
            FunctionFileError: The database lacks something that a function needs.
            psycopg.OperationalError: The database cannot be reached.
        """
        with Session.connect(**self._connection_parameters) as connection:
            self._configure(connection)
            for function in functions:
                prepared = connection.pgconn.prepare(b'', function.numbered_sql.encode())
                if connection.broken:
                    raise psycopg.OperationalError
                if prepared.status == ExecStatus.FATAL_ERROR:
                    raise FunctionFileError(refusal(prepared, function, connection.info))
            return connection.execute(MISSING_INDEXES.read_bytes()).fetchone()[0]


def run(
    session: Session, sql: str, values: dict[str, int | str | None] | None = None, *, prepare: bool
) -> tuple:
    """Run a statement that returns one row.

    Raises:
        ConnectionLost: The connection broke, or the server is about to break it.
        psycopg.Error: The statement failed.
    """
    try:
        return session.execute(sql, values, prepare=prepare).fetchone()
    except psycopg.OperationalError as ex:
        if session.broken or isinstance(ex, ENDED):
            raise ConnectionLost(session.connected_at) from ex
        raise


def refusal(prepared: PGresult, function: Function, info: ConnectionInfo) -> str:
    """Say in one line what PostgreSQL has against a function, where, and which PostgreSQL."""
    message = prepared.error_field(DiagnosticField.MESSAGE_PRIMARY).decode()
    position = prepared.error_field(DiagnosticField.STATEMENT_POSITION)
    line = f' line {function.line_at(int(position))}' if position else ''
    place = f'database {info.dbname} on {info.host} as {info.user}'
    return f'{function.name}.sql{line}: {message} ({place})'


class ConnectionLost(psycopg.OperationalError):
    """The connection broke during the statement.

    Args:
        connected_at: When it was made, by time.monotonic().
    """

    def __init__(self, connected_at: float) -> None:
        super().__init__()
        self.connected_at = connected_at
