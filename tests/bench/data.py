"""The databases that are measured: skewed and deterministic, on a server with realistic memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from tqdm import tqdm

from db.embedded import load
from tests.support import GuardedServer

CHUNK = 100_000
GIB = 2**30

# Ids by rank of popularity, scattered: a prime beyond every id maps the ranks 1 to n to 1 to n.
# A benefit's rank r has a density of 1 / r (Zipf's law), so a few benefits have most of the uses.
SCATTER = 2654435761

ENTITIES = [
    """
    insert into venue
    select number, 'Venue ' || number from generate_series(1, %(venues)s) as numbers (number)
    """,
    """
    insert into person
    select number, 'Person ' || number from generate_series(1, %(persons)s) as numbers (number)
    """,
    # the most popular benefits are all of one venue, the next ones of another, and so on
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
]

# in the order of time, as a live table grows, an hour more or less
USES = f"""
    insert into benefit_usage
    select
        number as id,
        1 + floor(random() * %(persons)s) as "personId",
        1 + floor(power(%(benefits)s + 1, random()))::bigint * {SCATTER} %% %(benefits)s
            as "benefitId",
        localtimestamp - interval '1 hour' * random()
        - interval '400 days' * (1 - number / %(usages)s::float8) as "usageTimestamp"
    from generate_series(%(first)s::integer, %(last)s::integer) as numbers (number)
"""

KEYS = """
    select conname, pg_get_constraintdef(oid)
    from pg_constraint
    where conrelid = 'benefit_usage'::regclass and contype in ('p', 'f')
    order by contype desc
"""

BUSIEST_VENUE = """
    select benefit."venueId"
    from benefit_usage
    inner join benefit on benefit_usage."benefitId" = benefit.id
    group by benefit."venueId"
    order by count(*) desc
    limit 1
"""


@dataclass(frozen=True)
class Size:
    """How many rows a database has; the uses are spread over 400 days."""

    usages: int
    venues: int
    benefits: int
    persons: int


def server_options() -> dict[str, str]:
    """Return server settings of a machine that is PostgreSQL's: a quarter of memory, up to 4 GB."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return {
        'shared_buffers': f'{min(memory // 4, 4 * GIB) // 2**20}MB',
        'effective_cache_size': f'{memory * 3 // 4 // 2**20}MB',
        'maintenance_work_mem': f'{min(memory // 16, GIB) // 2**20}MB',
        'max_wal_size': '16GB',
        'checkpoint_timeout': '1h',
        'wal_level': 'minimal',
        'max_wal_senders': '0',
        'max_connections': '300',
        # everything is analyzed once when it is loaded, and nothing changes afterwards
        'autovacuum': 'off',
    }


class Databases:
    """The databases of one server, each made when it is first asked for.

    Args:
        server: The server.
        size: What the largest has; the others have fewer uses and otherwise the same.

    Attributes:
        version: The server's.
        size: As given.
    """

    def __init__(self, server: GuardedServer, size: Size) -> None:
        self._server = server
        self._names: set[str] = set()
        self.size = size
        with psycopg.connect(server.url()) as connection:
            version = connection.execute('show server_version').fetchone()[0]
        self.version = version.split()[0]

    def url(self, usages: int) -> str:
        """Return the URL of the database with so many uses, through a Unix socket."""
        name = f'uses_{usages}'
        if name not in self._names:
            size = replace(self.size, usages=usages)
            fill(self.make(name), size, f'PostgreSQL {self.version}: loading {usages:,} uses')
            self._names.add(name)
        return self._server.url(database=name)

    def served(self, url: str) -> str:
        """Return the URL of a loaded database for the service: TCP, and a role that reads."""
        with psycopg.connect(url) as connection:
            connection.execute('grant select on all tables in schema public to reader')
            return self._server.reader_url(connection.info.dbname)

    def make(self, name: str) -> str:
        """Make an empty database with the schema; returns its URL."""
        with psycopg.connect(self._server.url(database='postgres'), autocommit=True) as admin:
            admin.execute(f'create database {name}')
        url = self._server.url(database=name)
        load(url, 'schema.sql')
        return url


@contextmanager
def databases(size: Size) -> Iterator[Databases]:
    """Run a throwaway server for databases until the block ends."""
    with GuardedServer(**server_options()) as server:
        yield Databases(server, size)


def fill(url: str, size: Size, title: str) -> None:
    """Load a database with the schema in chunks, showing how far it is under a title.

    The keys of benefit_usage are dropped meanwhile and the other indexes made afterwards, since
    checking millions of rows one by one takes longer than the rest.
    """
    values = vars(size)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in ENTITIES:
            connection.execute(statement, values)
        keys = connection.execute(KEYS).fetchall()
        for name, _ in reversed(keys):
            connection.execute(f'alter table benefit_usage drop constraint "{name}"')
        connection.execute('select setseed(0.5)')
        with tqdm(desc=title, total=size.usages, unit=' uses', unit_scale=True) as progress:
            for first in range(1, size.usages + 1, CHUNK):
                last = min(first + CHUNK - 1, size.usages)
                connection.execute(USES, values | {'first': first, 'last': last})
                progress.update(last - first + 1)
            progress.set_postfix_str('keys')
            for name, definition in keys:
                connection.execute(
                    f'alter table benefit_usage add constraint "{name}" {definition}'
                )
            progress.set_postfix_str('indexes')
            load(url, 'indexes.sql')
            progress.set_postfix_str('vacuum analyze')
            connection.execute('vacuum analyze')
            progress.set_postfix_str('')


def busiest_venue(url: str) -> int:
    """Return the id of the venue whose benefits were used most."""
    with psycopg.connect(url) as connection:
        return connection.execute(BUSIEST_VENUE).fetchone()[0]
