"""The memory of one worker of the service during a large answer (Linux only)."""

import time
import urllib.request
from pathlib import Path

from api.database.functions import FOLDER
from tests.bench.data import Databases
from tests.bench.results import OURS_ALONE
from tests.bench.servers import Server, running

VENUES = (10_000, 100_000)
PATH = '/venues/top-benefits'
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


def measure(databases: Databases) -> list[dict]:
    """Return, for each number of venues, bytes: the answer, the idle service, the peak above it."""
    records = []
    for venues in VENUES:
        print(f'memory with {venues:,} venues', flush=True)
        url = databases.served(databases.make(f'venues_{venues}', ROWS, {'venues': venues}))
        with running(OURS_ALONE, url, FOLDER) as api:
            time.sleep(CALM_S)
            for process in api.processes():
                Path(f'/proc/{process.pid}/clear_refs').write_text('5')  # resets VmHWM
            idle = total(api, 'VmRSS')
            with urllib.request.urlopen(api.url + PATH, timeout=120) as answer:
                size = len(answer.read())
            peak = total(api, 'VmHWM') - idle
        records.append({'venues': venues, 'answer': size, 'idle': idle, 'peak': peak})
    return records


def total(api: Server, name: str) -> int:
    """Return the sum of a field of /proc/PID/status over a server's processes, in bytes."""
    lines = [
        line.split()
        for process in api.processes()
        for line in Path(f'/proc/{process.pid}/status').read_text().splitlines()
    ]
    return sum(int(line[1]) for line in lines if line[0] == f'{name}:') * 1024
