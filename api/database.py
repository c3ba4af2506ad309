"""The connections to PostgreSQL, and one round trip for each report."""

import logging
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import psycopg
from psycopg import ConnectionInfo
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.types.json import set_json_loads
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import ConnectionPool

from api.config import ConfigError, Settings
from api.functions import Function, FunctionFileError
from api.tracing import Timings

APPLICATION_NAME = 'membership-benefits-api'
MISSING_INDEXES = Path(__file__).parent.parent / 'db' / 'missing_indexes.sql'

# its lines name hosts and users; what matters of them is logged here and by api.errors
logging.getLogger('psycopg.pool').setLevel(logging.CRITICAL)


class Answer(NamedTuple):
    """What a function returned: the body as libpq received it, and the bind that names nothing."""

    body: bytes
    missing: str | None


class Database:
    """A pool of read-only sessions.

    Args:
        settings: Where the database is and how long to wait for it.
        worker: The number of the worker that it belongs to, for the sessions' name.

    Raises:
        ConfigError: The settings name no database.
    """

    def __init__(self, settings: Settings, *, worker: int = 0) -> None:
        self._statement_timeout_ms = round(settings.statement_timeout_s * 1000)
        self._connection_parameters = {
            'fallback_application_name': f'{APPLICATION_NAME}/{worker}',
            'connect_timeout': settings.connect_timeout_s,
            **parse_url(settings.database_url),
            'autocommit': True,
        }
        self._pool = ConnectionPool(
            kwargs=self._connection_parameters,
            # the pool hands out the connection that waited longest, so more than are needed
            # would only keep more backends busy
            min_size=1,
            max_size=max(settings.pool_size, settings.threads),
            timeout=settings.pool_timeout_s,
            # no attempts in the background for long: whoever asks next makes the pool try
            reconnect_timeout=settings.pool_timeout_s,
            configure=self._configure,
            open=False,
        )

    def open(self) -> None:
        """Start connecting; does not wait and does not fail when there is no database yet."""
        self._pool.open()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _configure(self, connection: psycopg.Connection) -> None:
        connection.execute(
            "select set_config('default_transaction_read_only', 'on', false),"
            " set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false)",
            [str(self._statement_timeout_ms)],
        )
        set_json_loads(bytes, connection)  # the bytes as they came, never parsed
        # int2, int4 or int8 by value would make a statement and a plan of each
        connection.adapters.register_dumper(int, Int8Dumper)

    def fetch(
        self, function: Function, values: dict[str, int | str | None], timings: Timings
    ) -> Answer:
        """Run a function in one round trip; prepared when a connection runs it first.

        A connection that turns out to be broken costs no request: every other connection is
        checked, and the statement, which only reads, runs once more on a fresh one.

        Args:
            function: What to run.
            values: A value for each of its binds, by name.
            timings: Where to add the time that this takes.

        Raises:
            psycopg.errors.QueryCanceled: It ran into the statement timeout.
            psycopg.OperationalError: The database cannot be used now.
        """
        try:
            return self._fetch_once(function, values, timings)
        except ConnectionLost:
            self._pool.check()
            return self._fetch_once(function, values, timings)

    def _fetch_once(
        self, function: Function, values: dict[str, int | str | None], timings: Timings
    ) -> Answer:
        asked = given = perf_counter()
        try:
            with self._pool.connection() as connection:
                given = perf_counter()
                return Answer(*run(connection, function.sql, values))
        finally:
            answered = perf_counter()
            # without a connection all of the time went into waiting for one
            timings.pool_s += (given if given > asked else answered) - asked
            timings.database_s += answered - given if given > asked else 0.0

    def check(self, functions: Iterable[Function]) -> str | None:
        """Prepare functions on a connection of its own.

        Returns:
            The recommended indexes that are missing, if any are.

        Raises:
            FunctionFileError: The database lacks something that a function needs.
            psycopg.OperationalError: The database cannot be reached.
        """
        with psycopg.connect(**self._connection_parameters) as connection:
            self._configure(connection)
            for function in functions:
                prepared = connection.pgconn.prepare(b'', function.numbered_sql.encode())
                if prepared.status == ExecStatus.FATAL_ERROR:
                    raise FunctionFileError(refusal(prepared, function, connection.info))
            return connection.execute(MISSING_INDEXES.read_bytes()).fetchone()[0]

    def answers(self, timeout_s: float) -> bool:
        """Tell whether the database answers a query within some seconds."""
        try:
            with self._pool.connection(timeout=timeout_s) as connection:
                connection.execute('select')
        except psycopg.OperationalError:
            return False
        return True


def run(
    connection: psycopg.Connection, sql: str, values: dict[str, int | str | None]
) -> tuple[bytes, str | None]:
    """Run a statement that returns one row.

    Raises:
        ConnectionLost: The connection broke.
        psycopg.Error: The statement failed.
    """
    try:
        return connection.execute(sql, values, prepare=True).fetchone()
    except psycopg.OperationalError as ex:
        if connection.broken:
            raise ConnectionLost from ex
        raise


def refusal(prepared: PGresult, function: Function, info: ConnectionInfo) -> str:
    """Say in one line what PostgreSQL has against a function, where, and which PostgreSQL."""
    message = prepared.error_field(DiagnosticField.MESSAGE_PRIMARY).decode()
    position = prepared.error_field(DiagnosticField.STATEMENT_POSITION)
    line = f' line {function.line_at(int(position))}' if position else ''
    place = f'database {info.dbname} on {info.host} as {info.user}'
    return f'{function.name}.sql{line}: {message} ({place})'


def parse_url(url: str) -> dict[str, str]:
    """Split a libpq URL or keyword string into its parameters.

    Raises:
        ConfigError: It is neither; the message quotes nothing, since a password may be in it.
    """
    if not url:
        raise ConfigError('no database: set DATABASE_URL, or url in [database] of config.toml')
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigError(
            'DATABASE_URL: must be a libpq URL such as postgresql://user@host:5432/name,'
            ' or keywords such as host=... dbname=...'
        ) from None


class ConnectionLost(psycopg.OperationalError):
    """The connection broke during the statement."""
