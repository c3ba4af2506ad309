"""Inserts rows, and runs the function files on them."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psycopg

from api.database.queries import FOLDER, load_query
from tests.support.project import ROOT
from tests.support.waiting import wait_for

PLAIN = ROOT / 'db' / 'plain'
# the folders of the queries that db/functions is compared with
ORACLES = (ROOT / 'tests' / 'functions' / 'oracle', PLAIN)
loaded = functools.cache(load_query)


class Rows:
    """Inserts the rows of a test, and runs the function files on them.

    Attributes:
        connection: An autocommit connection to the test's database.
        folders: Folders with function files that replace those of db/functions.
    """

    def __init__(self, connection: psycopg.Connection, folders: Sequence[Path] = ()) -> None:
        self.connection = connection
        self.folders = folders

    def answer(self, name: str, **values: object) -> tuple:
        """Run a function file; returns its row, with the body parsed."""
        return run_function(self.connection, name, folders=self.folders, **values)

    def venues(self, *ids: int) -> None:
        """Insert venues."""
        for id_ in ids:
            self.connection.execute('insert into venue values (%s, %s)', [id_, f'Venue {id_}'])

    def many_venues(self) -> None:
        """Insert enough venues for a top-benefits response of more than 10 MiB."""
        self.connection.execute(
            "insert into venue select n, 'Venue' from generate_series(2, 220000) as s (n)"
        )

    def people(self, *ids: int) -> None:
        """Insert people."""
        for id_ in ids:
            self.connection.execute('insert into person values (%s, %s)', [id_, f'Person {id_}'])

    def benefit(self, id_: int, recurrence: str = 'day', *, venue: int = 1) -> None:
        """Insert a benefit."""
        self.connection.execute(
            'insert into benefit values (%s, %s, %s, %s)',
            [id_, venue, f'Benefit {id_}', recurrence],
        )

    def uses(self, benefit: int, *timestamps: str | datetime, person: int = 1) -> None:
        """Insert uses of a benefit by a person; timestamps are UTC without an offset."""
        for timestamp in timestamps:
            self.connection.execute(
                'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
                ' values (%s, %s, %s)',
                [person, benefit, timestamp],
            )


@contextmanager
def open_rows(url: str, folders: Sequence[Path] = ()) -> Iterator[Rows]:
    """Connect to an empty database, and insert venue 1 and person 1."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = Rows(connection, folders)
        rows.venues(1)
        rows.people(1)
        yield rows


def run_function(
    connection: psycopg.Connection,
    name: str,
    *,
    folders: Sequence[Path] = (),
    **values: object,
) -> tuple:
    """Run a function file from the first folder that has it, or else from db/functions.

    Returns:
        Its row, with the body parsed.
    """
    paths = [folder / f'{name}.sql' for folder in (*folders, FOLDER)]
    query = loaded(next(path for path in paths if path.exists()))
    ordered = [values.get(each.name) for each in query.parameters]
    return psycopg.RawCursor(connection).execute(query.sql, ordered).fetchone()


def body(rows: 'Rows', name: str, **values: object) -> list:
    """Run a function file; returns its body, parsed."""
    return rows.answer(name, **values)[0]


@contextmanager
def locked_uses(url: str) -> Iterator[None]:
    """Lock benefit_usage during a with block, so that every report that reads it waits."""
    with psycopg.connect(url) as connection:
        connection.execute('lock table benefit_usage')
        yield


def wait_until_busy(rows: Rows, report: str = 'available', count: int = 1) -> None:
    """Wait until at least `count` sessions that run a report sleep or wait for a lock.

    Args:
        rows: A connection to the database.
        report: The beginning of the report's name.
        count: How many sessions.
    """
    query = (
        f"select count(*) from pg_stat_activity where query like '-- name: {report}%'"
        " and datname = current_database() and state = 'active'"
        # other active sessions prepare the statement, or are about to end
        " and backend_type = 'client backend' and wait_event_type in ('Timeout', 'Lock')"
    )
    wait_for(lambda: rows.connection.execute(query).fetchone()[0] >= count)
