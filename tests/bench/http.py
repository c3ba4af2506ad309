"""The reports over HTTP: wrk against the service, its competitors, and pgbench without any HTTP.

wrk opens its connections at once and keeps them, as a pool of connections does, draws other ids for
every request, and as a C program takes the least of the cores, which it shares with the servers.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import psycopg

from api.database.functions import FOLDER
from db.embedded import find_binaries
from tests.bench.data import Databases, Size
from tests.bench.progress import Steps
from tests.bench.results import (
    AVAILABLE,
    FASTAPI,
    FASTAPI_QUIET,
    GRANIAN,
    GUNICORN,
    INACTIVITY,
    OURS,
    OURS_QUIET,
    OURS_UNCOUNTED,
    PGBENCH,
    TOP,
)
from tests.bench.servers import CORES, Server, running
from tests.bench.sql import warm_time_s
from tests.support import until

WARM_UP_S = 1
# a measurement in which each connection would not get two answers is made longer
ANSWERS_PER_CONNECTION = 2
GRACE_S = 120

# how a URL is made in Lua
REQUESTS = {
    TOP: "'/venues/top-benefits'",
    AVAILABLE: (
        "'/venues/' .. math.random(VENUES)"
        " .. '/available-benefits?personId=' .. math.random(PERSONS)"
    ),
    INACTIVITY: "'/venues/' .. math.random(VENUES) .. '/inactivity-periods'",
}

# every thread draws other ids, and the same ones each time
LUA = """
local threads = 0
function setup(thread) threads = threads + 1; thread:set('seed', threads) end
function init(args) math.randomseed(seed) end
function request() return wrk.format('GET', PATH) end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT %d %d %d %d %d\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""

PGBENCH_HEAD = r"""
\set venue_id random(1, VENUES)
\set person_id random(1, PERSONS)
"""


@dataclass(frozen=True)
class Comparison:
    """What is measured in turns.

    Attributes:
        report: The report that is asked for.
        connections: How many connections are kept and asked on.
        servers: Who answers.
        rounds_times: How many times the usual rounds are made, where small differences count.
    """

    report: str
    connections: int
    servers: tuple[str, ...]
    rounds_times: int = 1


EVERYBODY = (OURS, OURS_QUIET, FASTAPI, FASTAPI_QUIET, GRANIAN, GUNICORN, PGBENCH)
SOME = (OURS, FASTAPI_QUIET, PGBENCH)
OTHERS = [
    *(Comparison(AVAILABLE, connections, EVERYBODY) for connections in (1, 2, 4, 16, 64)),
    *(Comparison(INACTIVITY, connections, SOME) for connections in (1, 16)),
    *(Comparison(TOP, connections, SOME) for connections in (1, 4)),
]
PRICE = [Comparison(AVAILABLE, 16, (OURS, OURS_QUIET, OURS_UNCOUNTED), rounds_times=3)]


class Scripts:
    """The scripts of wrk and pgbench for one size of database, in a folder."""

    def __init__(self, folder: Path, size: Size) -> None:
        self._folder = folder
        self._size = size

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        text = text.replace('VENUES', str(self._size.venues))
        path.write_text(text.replace('PERSONS', str(self._size.persons)))
        return path

    def lua(self, report: str) -> Path:
        """Return wrk's script for a report."""
        return self._write(f'{report}.lua', LUA.replace('PATH', REQUESTS[report]))

    def pgbench(self, report: str) -> Path:
        """Return pgbench's script for a report: random ids, then the file as it is."""
        sql = (FOLDER / f'{report}.sql').read_text()
        return self._write(f'{report}.sql', PGBENCH_HEAD + sql)


def wrk(server: Server, script: Path, connections: int, seconds: int) -> dict:
    """Run wrk against a server.

    Returns:
        Answers in a second, latencies in milliseconds, how many requests failed, and how many
        connections each worker had in the middle.
    """
    arguments = [f'-t{min(CORES, connections)}', f'-c{connections}', f'-d{seconds}s']
    command = ['wrk', *arguments, '--timeout', f'{GRACE_S}s', '-s', str(script), server.url]
    found, spread = output(command, seconds, server.spread)
    result = re.search(r'RESULT (\d+) (\d+) (\d+) (\d+) (\d+)', found)
    if not result:
        raise RuntimeError(f'wrk failed on {server.name}:\n{found}')
    requests, duration_us, p50_us, p99_us, errors = map(int, result.groups())
    return {
        'per_s': round(requests / duration_us * 1e6, 2),
        'p50_ms': p50_us / 1000,
        'p99_ms': p99_us / 1000,
        'errors': errors,
        'spread': spread,
    }


def pgbench(program: str, url: str, script: Path, connections: int, seconds: int) -> dict:
    """Run pgbench on a database with as many clients as there are connections.

    Returns:
        Transactions in a second.
    """
    arguments = ['-n', '-M', 'prepared', '-T', str(seconds), '-D', 'timestamp=now']
    clients = ['-c', str(connections), '-j', str(min(CORES, connections))]
    found, _ = output([program, *arguments, *clients, '-f', str(script), url], seconds)
    result = re.search(r'tps = ([\d.]+)', found)
    if not result:
        raise RuntimeError(f'pgbench failed:\n{found}')
    return {'per_s': round(float(result[1]), 2)}


def output(
    arguments: list[str], seconds: int, look: Callable[[], object] = lambda: None
) -> tuple[str, object]:
    """Return what a program prints that runs for some seconds, and what a look shows amid them."""
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds / 2)
            seen = look()
            return process.communicate(timeout=seconds + GRACE_S)[0], seen
        finally:
            process.kill()


def find_pgbench() -> str | None:
    """Return the pgbench beside the server's programs or on the path, None if there is none."""
    beside = find_binaries() / PGBENCH
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(PGBENCH)


def settle(url: str) -> None:
    """Wait until the database works on nothing, such as reports whose readers have gone."""
    active = """
        select count(*) from pg_stat_activity
        where
            state = 'active' and backend_type = 'client backend' and pid <> pg_backend_pid()
    """
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in until(GRACE_S):
            if connection.execute(active).fetchone()[0] == 0:
                return


def measure(
    part: str, databases: Databases, comparisons: list[Comparison], rounds: int, seconds: int
) -> Iterator[dict]:
    """Measure over HTTP, on the largest database.

    Args:
        part: What is told to be measured.
        databases: Where the servers' database is.
        comparisons: What is measured.
        rounds: How many rounds each comparison has.
        seconds: How long one measurement takes.

    Yields:
        For each comparison, the rounds of each server, by its name.

    Raises:
        RuntimeError: A program is missing, or a server or a measurement failed.
    """
    program = find_pgbench()
    if not program or not shutil.which('wrk'):
        raise RuntimeError(
            'wrk and pgbench are needed (Debian: apt install wrk postgresql-contrib)'
        )
    size = databases.size
    url = databases.url(size.usages)
    asked = databases.served(url)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='bench-')))
        scripts = Scripts(folder, size)
        total = sum(c.rounds_times * rounds * len(c.servers) for c in comparisons)
        steps = stack.enter_context(Steps(part, total))
        steps.set_postfix_str('starting the servers')
        names = dict.fromkeys(name for comparison in comparisons for name in comparison.servers)
        servers = {
            name: stack.enter_context(running(name, asked)) for name in names if name != PGBENCH
        }
        for comparison in comparisons:
            report, connections = comparison.report, comparison.connections
            needed_s = ANSWERS_PER_CONNECTION * connections * warm_time_s(url, size, report)
            duration_s = max(seconds, ceil(needed_s))
            runs = {
                name: partial(wrk, servers[name], scripts.lua(report), connections)
                for name in comparison.servers
                if name != PGBENCH
            }
            steps.set_postfix_str(f'{report}, {connections} connections: warming up')
            for run in runs.values():
                run(WARM_UP_S)
            if PGBENCH in comparison.servers:
                script = scripts.pgbench(report)
                runs[PGBENCH] = partial(pgbench, program, asked, script, connections)
            found = {name: [] for name in runs}
            for number in range(comparison.rounds_times * rounds):
                for name in turns(list(runs), number):
                    with steps.step(f'{report}, {connections} connections: {name}'):
                        settle(url)
                        found[name].append(runs[name](duration_s))
            yield {'report': report, 'connections': connections, 'rounds': found}


def turns(names: list[str], number: int) -> list[str]:
    """Return who is measured after whom in a round; each round begins with another one."""
    first = number % len(names)
    return names[first:] + names[:first]
