"""A connection: its parameters, what it is set to, and how long it waits."""

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import QueryCanceled, _WaitTimeout
from psycopg.types.json import set_json_loads

from api.config import ConfigError, Settings

CONNECT_TIMEOUT_S = 2
# seconds beyond the statement timeout after which a server that does not answer is given up
GRACE_S = 1.0
# how a server that vanished is noticed, unless the URL says otherwise: libpq's parameters
LIVENESS = 'keepalives_idle=5 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000'
# A local database usually answers before another thread could take over the loop. So a thread waits
# LOCAL_WAIT_S for it first, unless each of the last LAST_ANSWERS answers took more than QUICK_S,
# as those of a distant database behind a local proxy do
LOCAL_ADDRESSES = (b'', b'127.0.0.1', b'::1')
LOCAL_WAIT_S = 0.003
QUICK_S = 0.001
LAST_ANSWERS = 32


class Connection(psycopg.Connection):
    """A connection with a limit to every wait.

    Attributes:
        before_waiting: Called by a thread before it waits for long.
        patience_s: Seconds after which a server that does not answer is given up.
    """

    _late_answers = 0

    @classmethod
    def connect(cls, conninfo: str = '', **parameters: Any) -> 'Connection':
        """Connect; a failure says in one line where and why (called by the pool)."""
        try:
            return super().connect(conninfo, **parameters)
        except psycopg.OperationalError as ex:
            # its frames keep the socket of an attempt that timed out until they are collected
            traceback.clear_frames(ex.__traceback__)
            raise psycopg.OperationalError(f'{in_one_line(ex)} ({describe(parameters)})') from None

    def set_up(self, settings: Settings, before_waiting: Callable[[], None] = lambda: None) -> None:
        """Set what the role may not have set: read-only, UTC and a statement timeout."""
        self.before_waiting = before_waiting
        self.patience_s = settings.statement_timeout_s + GRACE_S
        if settings.session_settings:
            self.execute(
                "set default_transaction_read_only = on; set timezone = 'UTC';"
                f' set statement_timeout = {settings.statement_timeout_s * 1000:.0f}'
            )
        # each statement is prepared when it first runs
        self.prepare_threshold = 0 if settings.prepare else None
        set_json_loads(bytes, self)  # JSON is not parsed

    def wait(self, generator: PQGen, interval: float = 0.1, _: Any = None) -> Any:
        """Wait for the server (called by psycopg for every exchange with it).

        Raises:
            psycopg.errors.QueryCanceled: The server does not answer; the connection is closed.
        """
        is_local = self.pgconn.hostaddr in LOCAL_ADDRESSES
        is_quick = is_local and self._late_answers < LAST_ANSWERS
        started = perf_counter()
        try:
            if is_quick:
                with suppress(_WaitTimeout):  # the exception that super().wait documents
                    return super().wait(generator, interval, LOCAL_WAIT_S)
            self.before_waiting()
            return super().wait(generator, interval, self.patience_s)
        except _WaitTimeout as ex:
            self.close()
            raise QueryCanceled('no answer') from ex
        finally:
            is_late = perf_counter() - started > QUICK_S
            self._late_answers = self._late_answers + 1 if is_late else 0


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """Return the arguments of Connection.connect.

    Raises:
        ConfigError: The settings name no database.
    """
    if not settings.database_url:
        raise ConfigError('no database: set DATABASE_URL, or url in [database] of config.toml')
    return {
        'fallback_application_name': f'membership-benefits-api/{os.getpid()}',
        **({} if 'PGCONNECT_TIMEOUT' in os.environ else {'connect_timeout': CONNECT_TIMEOUT_S}),
        **conninfo_to_dict(LIVENESS),
        **conninfo_to_dict(settings.database_url),
        # JSON is sent on as it comes, so it must be UTF-8, whatever the database and the role say
        'client_encoding': 'UTF8',
        'autocommit': True,
        # parameters are PostgreSQL's own: $1, $2
        'cursor_factory': psycopg.RawCursor,
    }


def in_one_line(ex: Exception) -> str:
    """Return the message of an exception."""
    return ' '.join(str(ex).split())


def describe(parameters: dict[str, Any]) -> str:
    """Return the parameters that name a database; libpq's defaults stand for those left out."""
    names = ('service', 'host', 'hostaddr', 'port', 'dbname', 'user')
    return make_conninfo(**{name: parameters[name] for name in names if name in parameters})
