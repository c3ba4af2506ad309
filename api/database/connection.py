"""A connection: its parameters, its session settings and its timeouts."""

import os
import traceback
from time import perf_counter
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import QueryCanceled, _WaitTimeout
from psycopg.types.json import set_json_loads
from psycopg.waiting import READY_R, WAIT_R, wait_c

from api.config import ConfigError, Settings

# seconds that the client waits beyond the statement timeout
GRACE_S = 1.0
# To switch to another greenlet and back takes longer than most responses of a local database. So
# the process blocks for up to LOCAL_WAIT_S, unless each of the last LAST_ANSWERS responses took
# more than QUICK_S. With a local database, blocking gives 1.3 to 1.5 times as many responses per
# second
LOCAL_WAIT_S = 0.003
QUICK_S = 0.0005
LAST_ANSWERS = 32


class Connection(psycopg.Connection):
    """A connection with a timeout for every wait.

    Attributes:
        patience_s: Timeout in seconds for each exchange with the server.
    """

    _late_answers = 0

    @classmethod
    def connect(cls, conninfo: str = '', **parameters: Any) -> 'Connection':
        """Connect; the message of a psycopg.OperationalError is one line and names the database."""
        try:
            return super().connect(conninfo, **parameters)
        except psycopg.OperationalError as ex:
            # an attempt that timed out stays open until garbage collection: clear its frames now
            traceback.clear_frames(ex.__traceback__)
            raise psycopg.OperationalError(f'{in_one_line(ex)} ({describe(parameters)})') from None

    def set_up(self, settings: Settings) -> None:
        """Prepare the session: read-only, UTC, the statement timeout, JSON as bytes."""
        self.patience_s = settings.statement_timeout_s + GRACE_S
        if settings.session_settings:
            self.execute(
                "set default_transaction_read_only = on; set timezone = 'UTC';"
                f' set statement_timeout = {settings.statement_timeout_s * 1000:.0f}'
            )
        # 0 prepares each statement at its first execution; None never prepares
        self.prepare_threshold = 0 if settings.prepare else None
        set_json_loads(bytes, self)

    def wait(self, generator: PQGen, interval: float = 0.1, _: Any = None) -> Any:
        """Wait for the server (called by psycopg for every exchange with it).

        Raises:
            psycopg.errors.QueryCanceled: The server did not answer within patience_s, which is
                longer than the statement timeout. The connection is closed.
        """
        started = perf_counter()
        try:
            if self._late_answers < LAST_ANSWERS:
                generator = self._wait_alone(generator)
            return super().wait(generator, interval, self.patience_s)
        except _WaitTimeout as ex:
            self.close()
            raise QueryCanceled('the server does not respond') from ex
        finally:
            is_late = perf_counter() - started > QUICK_S
            self._late_answers = self._late_answers + 1 if is_late else 0

    def _wait_alone(self, generator: PQGen) -> PQGen:
        """Wait up to LOCAL_WAIT_S for the server before switching greenlets."""
        try:
            state = next(generator)
            if state == WAIT_R:
                wait_c((each for each in [WAIT_R]), self.fileno(), LOCAL_WAIT_S)
                state = generator.send(READY_R)  # after a timeout, psycopg reads nothing
            while True:
                state = generator.send((yield state))
        except StopIteration as ex:
            return ex.value


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """Return the arguments of Connection.connect. Parameters in the URL override defaults.

    Raises:
        ConfigError: The settings name no database.
    """
    if not settings.database_url:
        raise ConfigError(
            'no database is configured: set DATABASE_URL or url in [database] of config.toml'
        )
    return {
        'fallback_application_name': f'membership-benefits-api/{os.getpid()}',
        'connect_timeout': os.environ.get('PGCONNECT_TIMEOUT', '2'),
        # these detect a lost server, and keep idle connections alive in firewalls
        'keepalives_idle': 5,
        'tcp_user_timeout': 5000,
        **conninfo_to_dict(settings.database_url),
        # responses contain the server's bytes, and JSON is UTF-8; this overrides the role's setting
        'client_encoding': 'UTF8',
        'autocommit': True,
        # RawCursor takes PostgreSQL's parameters: $1, $2
        'cursor_factory': psycopg.RawCursor,
    }


def in_one_line(ex: Exception) -> str:
    """Return the message of an exception, with its lines joined."""
    return ' '.join(str(ex).split())


def describe(parameters: dict[str, Any]) -> str:
    """Return the connection parameters that identify the database, without passwords."""
    names = ('service', 'host', 'hostaddr', 'port', 'dbname', 'user')
    return make_conninfo(**{name: parameters[name] for name in names if name in parameters})
