"""The memory of one worker of the service while it sends its largest response (Linux only)."""

import urllib.request
from pathlib import Path

from api.database.queries import FOLDER
from tests.bench.data import Databases
from tests.bench.results import OURS_ALONE
from tests.bench.servers import Server, running


def measure(databases: Databases) -> list[dict]:
    """Return bytes: the size of the answer, the idle service, and the peak above that."""
    url = databases.served(databases.url(databases.size.usages))
    with running(OURS_ALONE, url, FOLDER) as api:
        for process in api.processes():
            Path(f'/proc/{process.pid}/clear_refs').write_text('5')  # resets VmHWM
        idle = total(api, 'VmRSS')
        with urllib.request.urlopen(f'{api.url}/venues/top-benefits', timeout=120) as answer:
            size = len(answer.read())
        return [{'answer': size, 'idle': idle, 'peak': max(total(api, 'VmHWM') - idle, 0)}]


def total(api: Server, name: str) -> int:
    """Return the sum of a field of /proc/PID/status over a server's processes, in bytes."""
    lines = [
        line.split()
        for process in api.processes()
        for line in Path(f'/proc/{process.pid}/status').read_text().splitlines()
    ]
    return sum(int(line[1]) for line in lines if line[0] == f'{name}:') * 1024
