"""The check at the start: can the database run every SQL file?"""

from collections.abc import Iterable
from pathlib import Path

import psycopg

from api.config import Settings
from api.database.connection import Connection, connection_parameters, describe, in_one_line
from api.database.queries import Query, QueryFileError

MISSING_INDEXES = Path(__file__).parents[2] / 'db' / 'missing_indexes.sql'
# classes of SQLSTATE that last until somebody changes the database: an unknown feature, schema,
# table, column or type, a missing grant, a wrong value, a write. Everything else may pass, such as
# a lock, a restart, or a wrong password
LASTING = ('0A', '22', '25006', '3F', '42')
LONGEST_RUN_S = 5.0
INDEXES = (
    'recommended indexes are missing or invalid (a database that gets none is faster with'
    ' functions = ["db/plain"]), see db/indexes.sql'
)
COLUMNS = [('body', 'json'), ('missing', 'text')]


class NotCheckedError(Exception):
    """The database cannot be checked now; the message says why in one line."""


def check_database(settings: Settings, queries: Iterable[Query]) -> list[str]:
    """Run every SQL file once, with ids that name nothing.

    Returns:
        Warnings: slow files and missing indexes.

    Raises:
        ConfigError: The settings name no database.
        QueryFileError: The database refuses a file, or a file does not return what it should.
        NotCheckedError: The database cannot be reached, or fails for another reason.
    """
    try:
        connection = Connection.connect(**connection_parameters(settings))
    except psycopg.Error as ex:
        raise NotCheckedError(f'the database cannot be reached: {ex}') from ex
    with connection:
        place = describe(connection.info.get_parameters())
        try:
            connection.set_up(settings)
            if connection.execute('show server_encoding').fetchone() == ('SQL_ASCII',):
                raise QueryFileError(f'JSON needs an encoding other than SQL_ASCII ({place})')
            limit_s = min(settings.statement_timeout_s, LONGEST_RUN_S)
            warnings = [
                f'{query.path} takes longer than {limit_s:g} s, or waits for a lock ({place})'
                for query in queries
                if not run(connection, query, limit_s, place)
            ]
            [[missing]] = connection.execute(MISSING_INDEXES.read_bytes()).fetchall()
        except psycopg.Error as ex:
            reason = f'the database cannot be checked: {in_one_line(ex)} ({place})'
            raise NotCheckedError(reason) from ex
    return [*warnings, f'{INDEXES}: {missing}'] if missing else warnings


def run(connection: Connection, query: Query, limit_s: float, place: str) -> bool:
    """Run a SQL file, and tell whether it ended within some seconds; see check_database."""
    values = {each.name: 0 if each.type == 'bigint' else None for each in query.parameters}
    try:
        with connection.transaction():
            connection.execute(
                'set local transaction_read_only = on;'
                f' set local statement_timeout = {limit_s * 1000:.0f}'
            )
            answer = connection.execute(query.sql, values)
    except psycopg.errors.QueryCanceled:
        return False
    except psycopg.Error as ex:
        if not (ex.sqlstate or '').startswith(LASTING):
            raise
        file = f'{query.path}{query.line_at(ex.diag.statement_position)}'
        raise QueryFileError(f'{file}: {ex.diag.message_primary} ({place})') from ex
    columns = [(column.name, column.type_display) for column in answer.description or ()]
    if columns != COLUMNS or answer.rowcount != 1:
        raise QueryFileError(f'{query.path}: must return one row, body json and missing text')
    return True
