"""The check before anything is served: does the database have all that the files need?

**What is final.** PostgreSQL says by a code why it refuses a statement: for what that is (FINAL),
which passes only when somebody changes the database, or for the moment, such as a lock, a restart,
a lack of resources. For a connection that fails libpq has no code, only a text in the server's
language. So no such failure is final, not even a wrong password: a service must come up before its
database does, and a role or its password may be made a moment later. The reason is told at once.
"""

from collections.abc import Iterable
from pathlib import Path

import psycopg
from psycopg.conninfo import timeout_from_conninfo
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus

from api.config import Settings
from api.database.functions import Function, FunctionFileError
from api.database.sessions import Session, connection_parameters
from api.telemetry.outage import describe, in_one_line

MISSING_INDEXES = Path(__file__).parents[2] / 'db' / 'missing_indexes.sql'
# classes of SQLSTATE: a feature or schema that is not there, a constant that is none, and all that
# is missing, ambiguous, of another type or not granted
FINAL = ('0A', '22', '3F', '42')
# for all that the check does when no lock and no server keeps it waiting
WORK_S = 3.0


class NotCheckedError(Exception):
    """The database cannot be checked now, and may be soon; the message says why in one line."""


def check_limit_s(settings: Settings) -> float:
    """Return the seconds after which a check is held up by something that it cannot end itself.

    Raises:
        ConfigError: The settings name no database.
    """
    parameters = connection_parameters(settings)
    # the timeout is for each of the hosts
    hosts = str(parameters.get('host') or parameters.get('hostaddr') or '').split(',')
    connecting_s = len(hosts) * timeout_from_conninfo(parameters)
    return connecting_s + settings.statement_timeout_s + WORK_S


def check_database(settings: Settings, functions: Iterable[Function]) -> str:
    """Prepare functions on a connection of its own.

    Returns:
        The recommended indexes that are missing; empty if none are.

    Raises:
        ConfigError: The settings name no database.
        FunctionFileError: The database lacks something that a function needs.
        NotCheckedError: It cannot be reached, or keeps a function waiting for too long.
    """
    try:
        session = Session.connect(**connection_parameters(settings))
    except psycopg.Error as ex:
        raise NotCheckedError(f'the database cannot be reached: {ex}') from ex
    with session:
        place = describe(session.info.get_parameters())
        subject = 'the session'
        try:
            session.set_up(settings)
            if session.execute('show server_encoding').fetchone() == ('SQL_ASCII',):
                raise FunctionFileError(
                    f'an encoding is needed for JSON, and SQL_ASCII is none ({place})'
                )
            for function in functions:
                subject = f'{function.name}.sql'
                prepare(session, function, place)
            subject = MISSING_INDEXES.name
            return session.execute(MISSING_INDEXES.read_bytes()).fetchone()[0] or ''
        except psycopg.Error as ex:
            raise NotCheckedError(
                f'the database cannot be checked: {subject}: {in_one_line(ex)} ({place})'
            ) from ex


def prepare(session: Session, function: Function, place: str) -> None:
    """Let PostgreSQL judge a function, without running it.

    Args:
        session: Where; it must not be waited for in C, as PGconn.prepare does.
        function: What.
        place: What to call the database.

    Raises:
        FunctionFileError: It lacks something that the function needs.
        psycopg.Error: It does not say.
    """
    session.pgconn.send_prepare(b'', function.numbered_sql.encode())
    [result] = session.wait(execute(session.pgconn))
    if result.status == ExecStatus.FATAL_ERROR:
        refusal = error_from_result(result)
        if not refusal.sqlstate.startswith(FINAL):
            raise refusal
        position = refusal.diag.statement_position
        file = f'{function.name}.sql'
        if position:
            index = function.numbered_sql[: int(position) - 1].count('\n')
            file += f' line {function.lines[index]}'
        message = f'{file}: {refusal.diag.message_primary} ({place})'
        raise FunctionFileError(message)
