"""The reports over HTTP: wrk against the service, its competitors, and pgbench without any HTTP."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import psycopg

from api.database.functions import FOLDER
from tests.bench.data import Size
from tests.bench.servers import BENCH_PYTHON, CORES, FASTAPI, OTHER_WSGI, OURS, Server, running
from tests.support import until

CONNECTIONS = (1, 16, 64)
ROUNDS = 3
WARM_UP_S = 1
# a measurement in which each connection would not get two answers is made longer, up to this factor
MAX_LONGER = 10
GRACE_S = 120
PGBENCH = 'pgbench'

# how a URL is made in Lua
REQUESTS = {
    'top_benefits': "'/venues/top-benefits'",
    'available_benefits': (
        "'/venues/' .. math.random(VENUES)"
        " .. '/available-benefits?personId=' .. math.random(PERSONS)"
    ),
    'inactivity_periods': "'/venues/' .. math.random(VENUES) .. '/inactivity-periods'",
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
class Figures:
    """What one measurement found; latencies in milliseconds, None where they are not known."""

    per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int | None = None


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


def wrk(server: Server, script: Path, connections: int, seconds: int) -> Figures:
    """Run wrk against a server."""
    arguments = [f'-t{min(CORES, connections)}', f'-c{connections}', f'-d{seconds}s']
    found = output(
        ['wrk', *arguments, '--timeout', f'{GRACE_S}s', '-s', str(script), server.url], seconds
    )
    result = re.search(r'RESULT (\d+) (\d+) (\d+) (\d+) (\d+)', found)
    if not result:
        raise RuntimeError(f'wrk failed on {server.name}:\n{found}{server.log.read_text()}')
    requests, duration_us, p50_us, p99_us, errors = map(int, result.groups())
    return Figures(requests / duration_us * 1e6, p50_us / 1000, p99_us / 1000, errors)


def pgbench(
    program: Path, database_url: str, script: Path, connections: int, seconds: int
) -> Figures:
    """Run pgbench on a database with as many clients as there are connections."""
    arguments = ['-n', '-M', 'prepared', '-T', str(seconds), '-D', 'timestamp=now']
    clients = ['-c', str(connections), '-j', str(min(CORES, connections))]
    found = output([str(program), *arguments, *clients, '-f', str(script), database_url], seconds)
    result = re.search(r'tps = ([\d.]+)', found)
    if not result:
        raise RuntimeError(f'pgbench failed:\n{found}')
    return Figures(float(result[1]))


def output(arguments: list[str], seconds: int) -> str:
    """Return what a program prints, which may take longer than its measurement's seconds."""
    finished = subprocess.run(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds + GRACE_S,
        check=False,
    )
    return finished.stdout


def find_pgbench(binaries: Path) -> Path | None:
    """Return the pgbench beside the server's programs or on the path, None if there is none."""
    beside = binaries / PGBENCH
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(PGBENCH)
    return Path(found) if found else None


def settle(database_url: str) -> None:
    """Wait until the database works on nothing, such as reports whose readers have gone."""
    active = """
        select count(*) from pg_stat_activity
        where
            state = 'active' and backend_type = 'client backend' and pid <> pg_backend_pid()
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in until(GRACE_S):
            if connection.execute(active).fetchone()[0] == 0:
                return


def duration_s(seconds: int, connections: int, report_s: float) -> int | None:
    """Return how long to measure, None if it would take too long.

    Args:
        seconds: How long a measurement takes if answers are quick.
        connections: How many there are.
        report_s: How long the report takes in SQL, in seconds.
    """
    needed = 2 * connections * report_s
    return None if needed > MAX_LONGER * seconds else max(seconds, round(needed))


def measure(
    database_url: str,
    binaries: Path,
    size: Size,
    *,
    report_s: dict[str, float],
    seconds: int,
    say: Callable[[str], None],
) -> list[dict]:
    """Measure each report over HTTP.

    Args:
        database_url: The database of all servers.
        binaries: The folder of the server's programs.
        size: What the database has.
        report_s: How long a report takes in SQL, in seconds, by name.
        seconds: How long one measurement takes.
        say: Where to tell what happens.

    Returns:
        A row for each report, number of connections and server, with medians of the rounds.
    """
    if not shutil.which('wrk'):
        say('There is no wrk (Debian: apt install wrk), so nothing is measured over HTTP.')
        return []
    program = find_pgbench(binaries)
    if not program:
        say(
            'There is no pgbench (Debian: apt install postgresql-contrib), so HTTP is not compared.'
        )
    names = [OURS]
    if BENCH_PYTHON.exists():
        names += [FASTAPI, *OTHER_WSGI]
    else:
        say('There is no .venv-bench (make bench makes it), so no other servers are measured.')
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='bench-')))
        scripts = Scripts(folder, size)
        servers = [stack.enter_context(running(name, database_url)) for name in names]
        for report in REQUESTS:
            for connections in CONNECTIONS:
                duration = duration_s(seconds, connections, report_s[report])
                if duration is None:
                    say(f'{report}, connections {connections}: skipped, it would take too long')
                    continue
                say(
                    f'{report}, connections: {connections},'
                    f' {ROUNDS} rounds of {duration} s for each server ...'
                )
                runs = measurements(servers, scripts, report, connections, duration)
                if program:
                    runs[PGBENCH] = partial(
                        pgbench,
                        program,
                        database_url,
                        scripts.pgbench(report),
                        connections,
                        duration,
                    )
                found = interleaved(runs, partial(settle, database_url))
                rows += table(report, connections, found)
    return rows


def measurements(
    servers: list[Server], scripts: Scripts, report: str, connections: int, seconds: int
) -> dict[str, Callable[[], Figures]]:
    """Warm the servers up for a report; returns how to measure each, by its name."""
    script = scripts.lua(report)
    # one measurement is enough to compare WSGI servers, which do the same for every report
    compared = report == 'available_benefits' and connections == 16
    chosen = [server for server in servers if compared or server.name in (OURS, FASTAPI)]
    for server in chosen:
        wrk(server, script, connections, WARM_UP_S)
    return {server.name: partial(wrk, server, script, connections, seconds) for server in chosen}


def interleaved(
    runs: dict[str, Callable[[], Figures]], settled: Callable[[], None]
) -> dict[str, list[Figures]]:
    """Measure in turns (A, B, A, B ...), waiting before each until the last one's work is done."""
    found = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            settled()
            found[name].append(run())
    return found


def table(report: str, connections: int, found: dict[str, list[Figures]]) -> list[dict]:
    """Return a row for each server with the medians of its rounds and the sum of its errors."""
    ours_per_s = median(figures.per_s for figures in found[OURS])
    rows = []
    for name, rounds in found.items():
        per_s = median(figures.per_s for figures in rounds)
        has_latency = name != PGBENCH
        rows.append(
            {
                'report': report,
                'connections': connections,
                'server': name,
                'answers/s': round(per_s, 1),
                'p50_ms': round(median(f.p50_ms for f in rounds), 2) if has_latency else None,
                'p99_ms': round(median(f.p99_ms for f in rounds), 2) if has_latency else None,
                'errors': sum(f.errors for f in rounds) if has_latency else None,
                'ours/this': round(ours_per_s / per_s, 2) if per_s else None,
            }
        )
    return rows
