"""The databases of the measurements: deterministic, skewed data on a server with much memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg

from tests.support.postgres import GuardedServer
from tools.embedded import load

GIB = 2**30

# Popularity ranks are scattered over the ids: multiplying by a prime larger than every id maps the
# ranks 1 to n to the ids 1 to n. Rank r has a density of 1 / r (Zipf's law), so a few benefits have
# most of the uses.
SCATTER = 2654435761

ROWS = [
    """
    insert into venue
    select number, 'Venue ' || number from generate_series(1, %(venues)s) as numbers (number)
    """,
    """
    insert into person
    select number, 'Person ' || number from generate_series(1, %(persons)s) as numbers (number)
    """,
    # the most popular benefits belong to one venue, the next ones to another, and so on
    f"""
    insert into benefit
    select
        1 + rank * {SCATTER} %% %(benefits)s as id,
        1 + (rank * %(venues)s / (%(benefits)s + 1)) * {SCATTER} %% %(venues)s as "venueId",
        'Benefit of rank ' || rank as title,
        (array['day', 'week', 'month'])[1 + rank %% 3] as recurrence
    from generate_series(1, %(benefits)s::bigint) as ranks (rank)
    order by id
    """,
    'select setseed(0.5)',
    # 400 days of uses in order of time, give or take an hour, as a live table grows
    f"""
    insert into benefit_usage
    select
        number as id,
        1 + floor(random() * %(persons)s) as "personId",
        1 + floor(power(%(benefits)s + 1, random()))::bigint * {SCATTER} %% %(benefits)s
            as "benefitId",
        localtimestamp - interval '1 hour' * random()
        - interval '400 days' * (1 - number / %(usages)s::float8) as "usageTimestamp"
    from generate_series(1, %(usages)s::integer) as numbers (number)
    """,
]


@dataclass(frozen=True)
class Size:
    """The number of rows of each table."""

    usages: int
    venues: int
    benefits: int
    persons: int


class Databases:
    """The databases of one server, each loaded when it is first asked for.

    Attributes:
        version: The server's version.
        size: The size of the largest database. The others have fewer uses.
    """

    def __init__(self, server: GuardedServer, size: Size) -> None:
        self._server = server
        self._names: set[str] = set()
        self.size = size
        with psycopg.connect(server.url()) as connection:
            [version] = connection.execute('show server_version').fetchone()
        self.version = version.split()[0]

    def url(self, usages: int, *, has_indexes: bool = True) -> str:
        """Return the URL of the database with a number of uses, through a Unix socket."""
        name = f'{"indexed" if has_indexes else "unindexed"}_{usages}'
        if name not in self._names:
            print(f'PostgreSQL {self.version}: loading {usages:,} uses', flush=True)
            self._load(name, replace(self.size, usages=usages), has_indexes=has_indexes)
            self._names.add(name)
        return self._server.url(database=name)

    def served(self, url: str) -> str:
        """Return the URL of a database for a service: by TCP, with a role that only reads."""
        with psycopg.connect(url) as connection:
            connection.execute('grant select on all tables in schema public to reader')
            return self._server.reader_url(connection.info.dbname)

    def _load(self, name: str, size: Size, *, has_indexes: bool) -> None:
        """Create a database with the schema, rows and perhaps the recommended indexes."""
        with psycopg.connect(self._server.url(database='postgres'), autocommit=True) as admin:
            admin.execute(f'create database {name}')
        url = self._server.url(database=name)
        load(url, 'schema.sql')
        with psycopg.connect(url) as connection:
            # the rows fit together; checking every foreign key takes longer than everything else
            connection.execute('set session_replication_role = replica')
            # a table that was emptied in the same transaction is loaded without WAL
            connection.execute('truncate benefit_usage')
            for statement in ROWS:
                connection.execute(statement, vars(size))
        if has_indexes:
            load(url, 'indexes.sql')
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute('vacuum analyze')


@contextmanager
def databases(size: Size) -> Iterator[Databases]:
    """Run a temporary server until the block ends, with a quarter of the memory, at most 4 GiB."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    options = {
        'shared_buffers': f'{min(memory // 4, 4 * GIB) // 2**20}MB',
        'effective_cache_size': f'{memory * 3 // 4 // 2**20}MB',
        'maintenance_work_mem': f'{min(memory // 16, GIB) // 2**20}MB',
        'max_wal_size': '16GB',
        'checkpoint_timeout': '1h',
        'wal_level': 'minimal',
        'max_wal_senders': '0',
        'max_connections': '300',
        # the tables are analyzed once after loading, and do not change afterwards
        'autovacuum': 'off',
    }
    with GuardedServer(**options) as server:
        yield Databases(server, size)
