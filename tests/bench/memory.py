"""The memory of one process of the service before, during and after a large answer (Linux only)."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg

from db.embedded import load
from tests.bench.data import Databases
from tests.bench.progress import Steps
from tests.bench.results import OURS
from tests.bench.servers import Server, running

VENUES = (10_000, 100_000)
# what the process needs at all is there after a first small answer
FIRST = '/venues/1/inactivity-periods'
LARGE = '/venues/top-benefits'
READ_BYTES = 2**16
CALM_S = 1

# three used benefits for each venue, so that its element of the answer is as large as it gets
ROWS = [
    "insert into venue select n, 'Venue' from generate_series(1, %(venues)s) as numbers (n)",
    "insert into person values (1, 'Person')",
    """
    insert into benefit
    select n, 1 + n %% %(venues)s, 'Benefit', 'day'
    from generate_series(1, 3 * %(venues)s) as numbers (n)
    """,
    """
    insert into benefit_usage
    select id, 1, id, localtimestamp - interval '1 day' from benefit
    """,
]


def measure(part: str, databases: Databases, rounds: int) -> Iterator[dict]:
    """Measure the memory for top-benefits answers of some sizes.

    Args:
        part: What is told to be measured.
        databases: Where the answers' rows are made.
        rounds: How many answers of each size are asked for, each of a fresh process.

    Yields:
        For each number of venues, each round's bytes: of the answer, of the idle process, and
        above that at the peak and afterwards.
    """
    with Steps(part, len(VENUES) * (1 + rounds)) as steps:
        for venues in VENUES:
            with steps.step(f'loading {venues:,} venues'):
                url = databases.make(f'venues_{venues}')
                with psycopg.connect(url, autocommit=True) as connection:
                    for statement in ROWS:
                        connection.execute(statement, {'venues': venues})
                    load(url, 'indexes.sql')
                    connection.execute('vacuum analyze')
            found = []
            for number in range(1, rounds + 1):
                with (
                    steps.step(f'{venues:,} venues, process {number} of {rounds}'),
                    running(OURS, databases.served(url), API_WORKERS='1') as api,
                ):
                    found.append(one_answer(api))
            yield {'venues': venues, 'rounds': found}


def one_answer(api: Server) -> dict[str, int]:
    """Return the bytes of an answer, of the idle process, and above it at the peak and after."""
    read(api.url + FIRST)
    time.sleep(CALM_S)
    for folder in folders(api):
        (folder / 'clear_refs').write_text('5')  # VmHWM starts again from now
    idle = total(api, 'VmRSS')
    size = read(api.url + LARGE)
    peak = total(api, 'VmHWM')
    time.sleep(CALM_S)
    return {
        'answer': size,
        'idle': idle,
        'peak': max(peak - idle, 0),
        'after': max(total(api, 'VmRSS') - idle, 0),
    }


def read(url: str) -> int:
    """Read an answer without keeping it; returns its bytes."""
    size = 0
    with urllib.request.urlopen(url, timeout=120) as answer:
        while part := answer.read(READ_BYTES):
            size += len(part)
    return size


def folders(api: Server) -> list[Path]:
    """Return the folders in /proc of a server's processes."""
    return [Path('/proc', str(process.pid)) for process in api.processes()]


def total(api: Server, name: str) -> int:
    """Return the sum of a figure of /proc's status over a server's processes, in bytes."""
    lines = [
        line.split()
        for folder in folders(api)
        for line in (folder / 'status').read_text().splitlines()
    ]
    return sum(int(line[1]) for line in lines if line[0] == f'{name}:') * 1024
