"""The sessions on PostgreSQL: a pool of them, and one round trip for each answer."""

import logging
import os
import select
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DeadlockDetected, SerializationFailure
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper
from psycopg.waiting import Ready, Wait
from psycopg_pool import ConnectionPool, PoolTimeout

from api.config import ConfigError, Settings
from api.database.errors import OverloadedError, RefusedError, TimedOutError, UnavailableError
from api.database.functions import Function, Values
from api.telemetry import metrics
from api.telemetry.outage import describe, in_one_line
from api.telemetry.timings import Timings

APPLICATION_NAME = 'membership-benefits-api'
# the server enforces the statement timeout; one that does not do it in this time has stopped
GRACE_S = 1.0
# a request that had to wait already still gets this long for a connection
LEAST_POOL_TIMEOUT_S = 0.1
# seconds that a thread waits for an answer before it calls before_waiting. Most answers of a
# database on the same host come within them, and cost no thread switch
EAGER_S = 0.0003
# a session whose last answers were late calls before_waiting at once; now and then it looks again
DISTANT = 3
PROBE_EVERY = 64
# seconds after which psycopg looks at a connection that it waits for
WAIT_INTERVAL_S = 0.1
# how a server that vanished is noticed: libpq's parameters, unless the URL has them
LIVENESS = 'keepalives_idle=5 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000'

# of its lines, the log needs those that say why there is no connection, which nobody else knows
logging.getLogger('psycopg.pool').addFilter(
    lambda record: any(isinstance(arg, psycopg.Error) for arg in record.args or ())
)

# a function's columns, in their order: the body where libpq put it, and the bind that names nothing
Answer = tuple[memoryview, str | None]


class ViewLoader(Loader):
    """Loads JSON as the bytes that came: not parsed, not even copied out of libpq's result."""

    def load(self, data: Buffer) -> Buffer:
        """Return the view of the value, which keeps the result alive."""
        return data


class Session(psycopg.Connection):
    """A connection that does not wait for ever for an answer, but for patience_s seconds."""

    before_waiting: Callable[[], None] = staticmethod(lambda: None)
    patience_s: float | None = None
    timeout_s: float | None = None  # after which the server cancels a statement
    _exchanges = 0
    _late = 0

    @classmethod
    def connect(cls, conninfo: str = '', **options: Any) -> 'Session':
        """Connect, or say in one line where and why not (called by the pool)."""
        try:
            return super().connect(conninfo, **options)
        except psycopg.OperationalError as ex:
            place = describe(conninfo_to_dict(conninfo) | options)
            raise psycopg.OperationalError(f'{in_one_line(ex)} ({place})') from None

    def wait(
        self, generator: PQGen, interval: float = WAIT_INTERVAL_S, timeout: float | None = None
    ) -> Any:
        """Wait for the server (called by psycopg for every exchange with it).

        Raises:
            psycopg.errors.QueryCanceled: The server did not answer in time; the session is closed.
        """
        self._exchanges += 1
        if self._late < DISTANT or self._exchanges % PROBE_EVERY == 0:
            generator = self._hand_over_when_late(generator)
        else:
            self.before_waiting()
        try:
            return super().wait(generator, interval, self.patience_s)
        except psycopg.OperationalError as ex:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.close()
            raise psycopg.errors.QueryCanceled('no answer') from ex

    def _hand_over_when_late(self, generator: PQGen) -> PQGen:
        """Wait for an answer for EAGER_S; if it is late, call before_waiting and wait on."""
        try:
            wanted = next(generator)
            while wanted != Wait.R:
                wanted = generator.send((yield wanted))
            if self._is_readable_soon():
                self._late = 0
                wanted = generator.send(Ready.R)
            else:
                self._late += 1
                self.before_waiting()
            while True:
                wanted = generator.send((yield wanted))
        except StopIteration as ex:
            return ex.value

    def _is_readable_soon(self) -> bool:
        try:
            return bool(select.select([self.pgconn.socket], [], [], EAGER_S)[0])
        except ValueError:  # select knows no more than 1024 descriptors, poll no part of a ms
            return False

    def set_up(self, settings: Settings) -> None:
        """Set how values travel, and what the role does not: read-only, UTC and a timeout."""
        self.made_at = monotonic()  # before the server is asked for the last time
        self.limit(settings)
        if settings.session_settings:
            self.execute("set default_transaction_read_only = on; set timezone = 'UTC'")
        self.adapters.register_loader('json', ViewLoader)
        # int2, int4 or int8 by value would make a statement and a plan of each
        self.adapters.register_dumper(int, Int8Dumper)

    def limit(self, settings: Settings, report: str = '') -> None:
        """Let statements take as many seconds as those of a report, or of none, may."""
        timeout_s = settings.report_timeouts_s.get(report, settings.statement_timeout_s)
        self.patience_s = timeout_s + GRACE_S
        if settings.session_settings and timeout_s != self.timeout_s:
            self.execute(f'set statement_timeout = {timeout_s * 1000:.0f}')
            self.timeout_s = timeout_s


class Sessions:
    """A pool of read-only sessions; does not wait and does not fail when there is no database yet.

    Args:
        settings: Where the database is and how long to wait for it.
        before_waiting: Called by a thread that is about to wait.

    Raises:
        ConfigError: The settings name no database.
    """

    def __init__(self, settings: Settings, before_waiting: Callable[[], None]) -> None:
        self._settings = settings
        self._before_waiting = before_waiting
        self._lent: set[Session] = set()
        self._lost_at = 0.0
        self._pool = ConnectionPool(
            connection_class=Session,
            kwargs=connection_parameters(settings),
            # more than are needed only keep more backends busy, but spread over replicas
            min_size=min(settings.pool_min_size, settings.pool_size),
            max_size=settings.pool_size,
            max_lifetime=settings.pool_lifetime_s,
            # never a long pause between attempts: after these seconds the pool begins anew
            reconnect_timeout=settings.pool_timeout_s,
            reconnect_failed=ConnectionPool.check,
            configure=self._configure,
            name=APPLICATION_NAME,
            open=True,
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def are_all_lent(self) -> bool:
        """Tell whether who asks now has to wait."""
        return len(self._lent) == self._pool.max_size

    def _configure(self, session: Session) -> None:
        session.before_waiting = self._before_waiting
        session.set_up(self._settings)

    def fetch(
        self, function: Function, values: Values, deadline: float, timings: Timings
    ) -> Answer:
        """Run a function in one round trip; prepared when a connection runs it first.

        As Bulkhead.fetch; waits for a connection until the deadline, by time.monotonic().
        """

        def run(session: Session) -> Answer:
            return session.execute(function.sql, values, prepare=self._settings.prepare).fetchone()

        try:
            return self._read(run, function.name, deadline, timings)
        except psycopg.errors.QueryCanceled as ex:
            raise TimedOutError(f'statement cancelled: {ex.sqlstate}') from ex
        except psycopg.OperationalError as ex:
            raise UnavailableError(f'database unavailable: {type(ex).__name__}') from ex
        except psycopg.Error as ex:
            raise RefusedError(f'{type(ex).__name__}: {ex.diag.message_primary}') from ex

    def ping(self) -> None:
        """Ask the database for a sign of life; raises a DatabaseError if it gives none in time."""
        deadline = monotonic() + self._settings.pool_timeout_s
        try:
            self._read(lambda session: session.execute('select'), '', deadline, Timings())
        except psycopg.Error as ex:
            raise UnavailableError(f'database unavailable: {type(ex).__name__}') from ex

    def _read(self, run: Callable, report: str, deadline: float, timings: Timings) -> Any:
        """Run a statement that only reads, once more if it was not its fault that it failed.

        A broken connection costs no request: none made before is used again, as it may be broken.
        What a standby cancelled to keep up, or PostgreSQL to end a deadlock, runs again as well.
        """
        try:
            return self._read_once(run, report, deadline, timings)
        except (ConnectionLostError, SerializationFailure, DeadlockDetected):
            metrics.retries.inc()
        # the statement may have taken all the time that there was for waiting
        return self._read_once(run, report, monotonic() + self._settings.pool_timeout_s, timings)

    def _read_once(self, run: Callable, report: str, deadline: float, timings: Timings) -> Any:
        with timings.waiting():
            if self.are_all_lent():
                self._before_waiting()
            try:
                wait_s = max(deadline - monotonic(), LEAST_POOL_TIMEOUT_S)
                while (session := self._pool.getconn(wait_s)).made_at <= self._lost_at:
                    session.close()
                    self._pool.putconn(session)
            except PoolTimeout:
                if not self.are_all_lent():  # so no more can be made
                    raise
                raise OverloadedError('overloaded') from None
        self._lent.add(session)
        begun = perf_counter()
        try:
            session.limit(self._settings, report)
            return run(session)
        except psycopg.OperationalError as ex:
            # a session outlives its parallel workers, but who has ended one may end it next
            if session.broken or isinstance(ex, psycopg.errors.AdminShutdown):
                self._lost_at = monotonic()
                raise ConnectionLostError from ex
            raise
        finally:
            timings.database_s += perf_counter() - begun
            self._lent.discard(session)
            self._pool.putconn(session)


class ConnectionLostError(psycopg.OperationalError):
    """The connection broke during the statement, or the server is about to break it."""


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """Return what to connect with, for psycopg.connect; see Sessions."""
    if not settings.database_url:
        raise ConfigError('no database: set DATABASE_URL, or url in [database] of config.toml')
    return {
        'fallback_application_name': f'{APPLICATION_NAME}/{os.getpid()}',
        'connect_timeout': settings.connect_timeout_s,
        **conninfo_to_dict(LIVENESS),
        **conninfo_to_dict(settings.database_url),
        # JSON is sent as it comes, so it has to come as UTF-8, whatever the database and role say
        'client_encoding': 'UTF8',
        'autocommit': True,
        **({} if settings.prepare else {'prepare_threshold': None}),
    }
