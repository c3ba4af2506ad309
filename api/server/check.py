"""The check at the start: can the database run every SQL file?"""

import logging
from collections.abc import Iterable
from pathlib import Path

import psycopg

from api import StartError
from api.config import Settings
from api.database.connection import Connection, connection_parameters, describe, in_one_line
from api.database.queries import Query, QueryFileError
from api.http.reports import Report

log = logging.getLogger(__name__)

MISSING_INDEXES = Path(__file__).parents[2] / 'db' / 'missing_indexes.sql'
LOOPBACK = ('127.0.0.1', '::1', 'localhost')
COLUMNS = [('body', 'json'), ('missing', 'text')]


class NotCheckedError(StartError):
    """The database cannot be checked now."""


def check_start(settings: Settings, reports: dict[Report, Query]) -> None:
    """Check the database, and log warnings and which file each report uses.

    A database that cannot be checked is a warning: it may become available later.

    Raises:
        QueryFileError: The database refuses a file.
    """
    try:
        check_database(settings, reports.values())
    except NotCheckedError as ex:
        log.warning('%s', ex)
    if settings.host not in LOOPBACK and not settings.token_sha256:
        log.warning('no token is set: anyone who can reach %s can read the reports', settings.host)
    for report, query in reports.items():
        log.info('report', {'route': report.path, 'file': query.path})


def check_database(settings: Settings, queries: Iterable[Query]) -> None:
    """Run every SQL file once, with ids that do not exist; log slow files and missing indexes.

    Raises:
        ConfigError: The settings name no database.
        QueryFileError: The database refuses a file, or a file does not return what it should.
        NotCheckedError: The database cannot be reached, or fails for another reason.
    """
    try:
        with Connection.connect(**connection_parameters(settings)) as connection:
            connection.set_up(settings)
            connection.read_only = True  # set_up may set nothing
            if connection.execute('show server_encoding').fetchone() == ('SQL_ASCII',):
                raise QueryFileError('JSON needs a database with an encoding other than SQL_ASCII')
            for query in queries:
                run(connection, query)
            [[missing]] = connection.execute(MISSING_INDEXES.read_bytes()).fetchall()
    except psycopg.Error as ex:
        raise NotCheckedError(f'the database cannot be checked: {in_one_line(ex)}') from ex
    if missing:
        log.warning(
            'recommended indexes are missing or invalid (if you cannot create them, set'
            ' functions = ["db/plain"]), see db/indexes.sql: %s',
            missing,
        )


def run(connection: Connection, query: Query) -> None:
    """Run a SQL file; log a warning if it is cancelled after the statement timeout."""
    place = describe(connection.info.get_parameters())
    values = ['0' if each.type == 'bigint' else None for each in query.parameters]
    try:
        with connection.transaction():
            answer = connection.execute(query.sql, values)
    except psycopg.errors.QueryCanceled:
        log.warning('%s exceeds statement_timeout_s, or waits for a lock (%s)', query.path, place)
        return
    except psycopg.OperationalError:  # may be temporary, such as a restart of the database
        raise
    except psycopg.Error as ex:  # recurs, such as an unknown column or a missing grant
        file = f'{query.path}{query.line_at(ex.diag.statement_position)}'
        raise QueryFileError(f'{file}: {ex.diag.message_primary} ({place})') from ex
    columns = [(column.name, column.type_display) for column in answer.description or ()]
    if columns != COLUMNS or answer.rowcount != 1:
        raise QueryFileError(f'{query.path}: must return one row, body json and missing text')
