"""The check at the start: can the database run every SQL file?

A file is planned first, which finds most of what is missing or not granted. Then it is run, because
extensions such as Citus refuse some statements only then. A file that is slow is a warning.

PostgreSQL gives an error code for each statement that it refuses. The codes in FINAL stand for
errors that last until somebody changes the database, so they end the start. Everything else may
pass, such as a lock, a restart or a wrong password of a role that is not made yet: the service
starts and logs the reason.
"""

from collections.abc import Collection
from pathlib import Path

import psycopg

from api.config import Settings
from api.database.functions import Function, FunctionFileError
from api.database.sessions import Session, connection_parameters
from api.telemetry.outage import describe, in_one_line

MISSING_INDEXES = Path(__file__).parents[2] / 'db' / 'missing_indexes.sql'
# classes of SQLSTATE: a feature or schema that is not there, a value that is none, a write, and all
# that is missing, ambiguous, of another type or not granted
FINAL = ('0A', '22', '25006', '3F', '42')
# seconds; a file that runs for longer is not waited for
LONGEST_RUN_S = 5.0
# also where session_settings is false, for the transaction
LIMITS = (
    "select set_config('transaction_read_only', 'on', true),"
    " set_config('statement_timeout', %s, true)"
)
EXPLAIN = 'explain '
INDEXES = 'recommended indexes are missing or invalid, see db/indexes.sql'
COLUMNS = [('body', 'json'), ('missing', 'text')]


class NotCheckedError(Exception):
    """The database cannot be checked now, and may be soon; the message says why in one line."""


def check_database(settings: Settings, functions: Collection[Function]) -> list[str]:
    """Plan and run functions on a connection of its own.

    Returns:
        What is no reason not to serve, and should be mended: slow files and missing indexes.

    Raises:
        ConfigError: The settings name no database.
        FunctionFileError: The database refuses a function, or it does not return what it should.
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
            warnings = []
            for function in functions:
                subject = function.path
                limit_s = min(settings.statement_timeout_s, LONGEST_RUN_S)
                if not ends_in_time(session, function, limit_s, place):
                    warnings.append(f'{function.path} takes longer than {limit_s:g} s ({place})')
            subject = MISSING_INDEXES.name
            [[missing]] = session.execute(MISSING_INDEXES.read_bytes()).fetchall()
            if missing:
                warnings.append(f'{INDEXES}: {missing}')
            return warnings
        except psycopg.Error as ex:
            raise NotCheckedError(
                f'the database cannot be checked: {subject}: {in_one_line(ex)} ({place})'
            ) from ex


def ends_in_time(session: Session, function: Function, limit_s: float, place: str) -> bool:
    """Let PostgreSQL plan a function and run it, with ids that name nothing.

    Args:
        session: Where.
        function: What.
        limit_s: How long either may take.
        place: What to call the database.

    Returns:
        Whether the run ended in time.

    Raises:
        FunctionFileError: The database refuses it, or it does not return what it should.
        psycopg.Error: The database does not say, or something keeps the planner waiting.
    """
    values = {bind.name: 0 if bind.type == 'bigint' else None for bind in function.binds}
    is_planned = False
    try:
        with session.transaction():
            session.execute(LIMITS, [str(round(limit_s * 1000))])
            session.execute(EXPLAIN + function.sql, values)
            is_planned = True
            answer = session.execute(function.sql, values)
    except psycopg.errors.QueryCanceled:
        if is_planned:
            return False
        raise
    except psycopg.Error as ex:
        if not (ex.sqlstate or '').startswith(FINAL):
            raise
        file = f'{function.path}{line(function, ex)}'
        raise FunctionFileError(f'{file}: {ex.diag.message_primary} ({place})') from ex
    columns = [(column.name, column.type_display) for column in answer.description or ()]
    if columns != COLUMNS or answer.rowcount != 1:
        raise FunctionFileError(f'{function.path}: must return one row, body json and missing text')
    return True


def line(function: Function, refusal: psycopg.Error) -> str:
    """Tell in which line of a file the planner found what it refuses, if it says."""
    if not (position := refusal.diag.statement_position):
        return ''
    numbers = {bind.name: f'${n}' for n, bind in enumerate(function.binds, start=1)}
    planned = EXPLAIN + function.sql % numbers
    return f' line {function.lines[planned[: int(position) - 1].count(chr(10))]}'
