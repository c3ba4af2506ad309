"""The check at the start: can the database run every SQL file?"""

from collections.abc import Iterable
from pathlib import Path

import psycopg

from api.config import Settings
from api.database.connection import Connection, connection_parameters, describe
from api.database.queries import Query, QueryFileError

MISSING_INDEXES = Path(__file__).parents[2] / 'db' / 'missing_indexes.sql'
# errors that last until somebody changes the database or the file: an unknown table or column, a
# missing grant, a wrong value, a write. Others may pass, such as a lock or a restart
LASTING = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.NotSupportedError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.StatementTooComplex,
)
COLUMNS = [('body', 'json'), ('missing', 'text')]


def check_database(settings: Settings, queries: Iterable[Query]) -> list[str]:
    """Run every SQL file once, with ids that name nothing.

    Returns:
        Warnings: slow files and missing indexes.

    Raises:
        ConfigError: The settings name no database.
        QueryFileError: The database refuses a file, or a file does not return what it should.
        psycopg.Error: The database cannot be reached, or fails for another reason.
    """
    with Connection.connect(**connection_parameters(settings)) as connection:
        connection.set_up(settings)
        connection.read_only = True  # for transactions, also where the session has no settings
        place = describe(connection.info.get_parameters())
        if connection.execute('show server_encoding').fetchone() == ('SQL_ASCII',):
            raise QueryFileError(f'JSON needs an encoding other than SQL_ASCII ({place})')
        limit_s = settings.statement_timeout_s
        warnings = [
            f'{query.path} takes longer than {limit_s:g} s, or waits for a lock ({place})'
            for query in queries
            if not run(connection, query, place)
        ]
        [[missing]] = connection.execute(MISSING_INDEXES.read_bytes()).fetchall()
    if missing:
        warnings.append(
            'recommended indexes are missing or invalid (a database that gets none is faster with'
            f' functions = ["db/plain"]), see db/indexes.sql: {missing}'
        )
    return warnings


def run(connection: Connection, query: Query, place: str) -> bool:
    """Run a SQL file, and tell whether it ended within the statement timeout."""
    values = ['0' if each.type == 'bigint' else None for each in query.parameters]
    try:
        with connection.transaction():
            answer = connection.execute(query.sql, values)
    except psycopg.errors.QueryCanceled:
        return False
    except LASTING as ex:
        file = f'{query.path}{query.line_at(ex.diag.statement_position)}'
        raise QueryFileError(f'{file}: {ex.diag.message_primary} ({place})') from ex
    columns = [(column.name, column.type_display) for column in answer.description or ()]
    if columns != COLUMNS or answer.rowcount != 1:
        raise QueryFileError(f'{query.path}: must return one row, body json and missing text')
    return True
