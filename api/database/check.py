"""The check before anything is served: does the database have all that the files need?"""

from collections.abc import Iterable
from pathlib import Path

import psycopg
from psycopg import ConnectionInfo
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from api.config import Settings
from api.database.functions import Function, FunctionFileError
from api.database.sessions import Session, connection_parameters

MISSING_INDEXES = Path(__file__).parents[2] / 'db' / 'missing_indexes.sql'


def check_database(settings: Settings, functions: Iterable[Function]) -> str | None:
    """Prepare functions on a connection of its own.

    Returns:
        The recommended indexes that are missing, if any are.

    Raises:
        ConfigError: The settings name no database.
        FunctionFileError: The database lacks something that a function needs.
        psycopg.OperationalError: The database cannot be reached.
    """
    with Session.connect(**connection_parameters(settings)) as session:
        session.set_up(settings)
        for function in functions:
            prepared = session.pgconn.prepare(b'', function.numbered_sql.encode())
            if session.broken:
                raise psycopg.OperationalError
            if prepared.status == ExecStatus.FATAL_ERROR:
                raise FunctionFileError(complaint(prepared, function, session.info))
        return session.execute(MISSING_INDEXES.read_bytes()).fetchone()[0]


def complaint(prepared: PGresult, function: Function, info: ConnectionInfo) -> str:
    """Say in one line what PostgreSQL has against a function, where, and which PostgreSQL."""
    message = prepared.error_field(DiagnosticField.MESSAGE_PRIMARY).decode()
    position = prepared.error_field(DiagnosticField.STATEMENT_POSITION)
    line = f' line {function.line_at(int(position))}' if position else ''
    place = f'database {info.dbname} on {info.host} as {info.user}'
    return f'{function.name}.sql{line}: {message} ({place})'
