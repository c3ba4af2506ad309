"""A connection: how values travel, how long it waits, and its description in messages."""

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from psycopg.types.numeric import Int8Dumper

from api.config import ConfigError, Settings

APPLICATION_NAME = 'membership-benefits-api'
CONNECT_TIMEOUT_S = 2
# seconds beyond the statement timeout after which a server that does not answer is given up
GRACE_S = 1.0
# how a server that vanished is noticed, unless the URL says otherwise: libpq's parameters
LIVENESS = 'keepalives_idle=5 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000'
# A database on the same host answers sooner than another thread could take over, and uses the same
# cores. So a thread waits PATIENT_S for it before it calls before_waiting, as long as one of the
# last answers came within NEAR_S; if none did, only every now and then
LOCAL_ADDRESSES = (b'', b'127.0.0.1', b'::1')
NEAR_S = 0.0008
PATIENT_S = 0.002
LAST_ANSWERS = 32
PROBE_EVERY = 16


class ViewLoader(Loader):
    """Loads JSON as the bytes that came: not parsed, and not copied out of libpq's result."""

    def load(self, data: Buffer) -> Buffer:
        """Return the view of the value, which keeps the result alive."""
        return data


class Connection(psycopg.Connection):
    """A connection with a limit to every wait.

    Attributes:
        before_waiting: Called by a thread before it waits for the server.
        patience_s: Seconds after which a server that does not answer is given up.
    """

    before_waiting: Callable[[], None] = staticmethod(lambda: None)
    patience_s: float | None = None
    _late_answers = 0

    @classmethod
    def connect(cls, conninfo: str = '', **parameters: Any) -> 'Connection':
        """Connect; a failure says in one line where and why (called by the pool)."""
        try:
            return super().connect(conninfo, **parameters)
        except psycopg.OperationalError as ex:
            place = describe(conninfo_to_dict(conninfo) | parameters)
            raise psycopg.OperationalError(f'{in_one_line(ex)} ({place})') from None

    def set_up(self, settings: Settings) -> None:
        """Set what the role may not have set: read-only, UTC and a statement timeout."""
        self.patience_s = settings.statement_timeout_s + GRACE_S
        if settings.session_settings:
            self.execute(
                "set default_transaction_read_only = on; set timezone = 'UTC';"
                f' set statement_timeout = {settings.statement_timeout_s * 1000:.0f}'
            )
        self.adapters.register_loader('json', ViewLoader)
        # int2, int4 or int8, depending on the value, would make a statement and a plan of each
        self.adapters.register_dumper(int, Int8Dumper)

    def ping(self) -> psycopg.Cursor:
        """Run the shortest statement, with little patience."""
        patience_s, self.patience_s = self.patience_s, GRACE_S
        try:
            return self.execute('select 1')
        finally:
            self.patience_s = patience_s

    def wait(self, generator: PQGen, interval: float = 0.1, _: Any = None) -> Any:
        """Wait for the server (called by psycopg for every exchange with it).

        Raises:
            psycopg.errors.QueryCanceled: The server does not answer; the connection is closed.
        """
        is_near = self._late_answers < LAST_ANSWERS
        self._late_answers += 1
        is_probe = self._late_answers % PROBE_EVERY == 0
        if self.pgconn.hostaddr in LOCAL_ADDRESSES and (is_near or is_probe):
            started = perf_counter()
            try:
                return super().wait(generator, interval, PATIENT_S if is_near else NEAR_S)
            except psycopg.errors._WaitTimeout:
                pass
            finally:
                if perf_counter() - started < NEAR_S:
                    self._late_answers = 0
        self.before_waiting()
        try:
            return super().wait(generator, interval, self.patience_s)
        except psycopg.errors._WaitTimeout as ex:
            self.close()
            raise psycopg.errors.QueryCanceled('no answer') from ex


def connection_parameters(settings: Settings) -> dict[str, Any]:
    """Return the arguments of Connection.connect.

    Raises:
        ConfigError: The settings name no database.
    """
    if not settings.database_url:
        raise ConfigError('no database: set DATABASE_URL, or url in [database] of config.toml')
    return {
        'fallback_application_name': f'{APPLICATION_NAME}/{os.getpid()}',
        **({} if 'PGCONNECT_TIMEOUT' in os.environ else {'connect_timeout': CONNECT_TIMEOUT_S}),
        **conninfo_to_dict(LIVENESS),
        **conninfo_to_dict(settings.database_url),
        # JSON is sent on as it comes, so it must be UTF-8, whatever the database and the role say
        'client_encoding': 'UTF8',
        'autocommit': True,
        **({} if settings.prepare else {'prepare_threshold': None}),
    }


def in_one_line(ex: psycopg.Error) -> str:
    """Return the message of an exception."""
    # for several hosts, psycopg gives the last host's reason, and then all of them
    lines = str(ex).rpartition('All failures were:')[2].strip().splitlines()
    return '; '.join(line.strip('- \t') for line in lines)


def describe(parameters: dict[str, Any]) -> str:
    """Name a database without its password; libpq's defaults stand for what is not given."""
    options = [option for option in Conninfo.get_defaults() if option.val]
    known = {option.keyword.decode(): option.val.decode() for option in options} | parameters
    host = known.get('host') or known.get('hostaddr') or 'the default host'
    user = known.get('user')
    return f'database {known.get("dbname", user)} on {host} port {known["port"]} as {user}'
