"""The memory of one process of the service before, during and after a large answer (Linux only)."""

import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psycopg

from db.embedded import EmbeddedServer, load
from tests.bench.data import make_database
from tests.bench.servers import OURS, Server, running

VENUES = (10_000, 100_000)
ROUNDS = 3
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


def measure(server: EmbeddedServer, say: Callable[[str], None]) -> list[dict]:
    """Measure the memory for top-benefits answers of some sizes.

    Returns:
        A row for each size with the medians of the rounds, each in a fresh process; peak and
        after are above idle, and also given as multiples of the answer's size.
    """
    if sys.platform != 'linux':
        say('Memory is read from /proc, which only Linux has: it is not measured here.')
        return []
    rows = []
    for venues in VENUES:
        say(f'top_benefits of {venues:,} venues: loading, then {ROUNDS} fresh processes ...')
        url = make_database(server, f'venues_{venues}')
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in ROWS:
                connection.execute(statement, {'venues': venues})
            load(url, 'indexes.sql')
            connection.execute('vacuum analyze')
        rounds = []
        for _ in range(ROUNDS):
            with running(OURS, url, API_WORKERS='1') as api:
                rounds.append(one_answer(api))
        size, idle, peak, after = (median(values) for values in zip(*rounds, strict=True))
        rows.append(
            {
                'venues': venues,
                'answer_mb': round(size / 1e6, 2),
                'idle_mb': round(idle / 1e6, 1),
                'peak_mb': round(peak / 1e6, 1),
                'after_mb': round(after / 1e6, 1),
                'peak/answer': round(peak / size, 2),
                'after/answer': round(after / size, 2),
            }
        )
    return rows


def one_answer(api: Server) -> tuple[int, int, int, int]:
    """Return the bytes of an answer, of the idle process, and above it at the peak and after."""
    read(api.url + FIRST)
    time.sleep(CALM_S)
    for folder in processes(api.group):
        Path(folder, 'clear_refs').write_text('5')  # VmHWM starts again from now
    idle = total(api.group, 'VmRSS')
    size = read(api.url + LARGE)
    peak = total(api.group, 'VmHWM')
    time.sleep(CALM_S)
    return size, idle, max(peak - idle, 0), max(total(api.group, 'VmRSS') - idle, 0)


def read(url: str) -> int:
    """Read an answer without keeping it; returns its bytes."""
    size = 0
    with urllib.request.urlopen(url, timeout=120) as answer:
        while part := answer.read(READ_BYTES):
            size += len(part)
    return size


def processes(group: int) -> list[Path]:
    """Return the folders in /proc of a process group."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            # pid (name) state parent group ..., and the name may hold anything
            if int(stat.read_text().rpartition(')')[2].split()[2]) == group:
                found.append(stat.parent)
        except OSError:
            continue  # it ended meanwhile
    return found


def total(group: int, name: str) -> int:
    """Return the sum of a figure of /proc's status over a process group, in bytes."""
    lines = [
        line.split()
        for folder in processes(group)
        for line in Path(folder, 'status').read_text().splitlines()
    ]
    return sum(int(line[1]) for line in lines if line[0] == f'{name}:') * 1024
