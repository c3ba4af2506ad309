"""available_benefits over HTTP: wrk against the service and its competitors, near and far.

wrk opens its connections at once and keeps them, as a client's connection pool does, draws new ids
for every request, and as a C program takes little of the cores that it shares with the servers.
"""

import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from api.database.queries import FOLDER
from tests.bench.data import Databases
from tests.bench.results import AVAILABLE, SERVERS
from tests.bench.servers import CORES, Server, running

DISTANCES_MS = (0, 1, 5)
CONNECTIONS = (16, 64)
WARM_UP_S = 1

# every thread draws other ids, and the same ones in every run
LUA = """
local threads = 0
function setup(thread) threads = threads + 1; thread:set('seed', threads) end
function init(args) math.randomseed(seed) end
function request()
  return wrk.format('GET', '/venues/' .. math.random(VENUES)
    .. '/available-benefits?personId=' .. math.random(PERSONS))
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT %d %d %d\\n', summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def write_distant(folder: Path, milliseconds: int) -> None:
    """Write available_benefits.sql to a folder, with a wait that stands for the distance.

    A server cannot tell the difference: it waits for an answer.
    """
    sql = (FOLDER / f'{AVAILABLE}.sql').read_text()
    if milliseconds:
        statement = sql.rstrip().removesuffix(';')
        wait = f'(select pg_sleep({milliseconds / 1000}))'
        sql = f'{statement}\ncross join {wait} as distance;\n'
    (folder / f'{AVAILABLE}.sql').write_text(sql)


def wrk(server: Server, script: Path, connections: int, seconds: int) -> dict[str, float]:
    """Return answers per second, CPU microseconds per answer, and failed requests of a server."""
    started_s = server.cpu_s()
    finished = subprocess.run(
        [
            *['wrk', f'-t{min(CORES, connections)}', f'-c{connections}', f'-d{seconds}s'],
            *['--timeout', '60s', '-s', str(script), server.url],
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    cpu_s = server.cpu_s() - started_s
    result = re.search(r'RESULT (\d+) (\d+) (\d+)', finished.stdout)
    requests, duration_us, errors = map(int, result.groups())
    return {
        'per_s': round(requests / duration_us * 1e6, 1),
        'cpu_us': round(cpu_s / requests * 1e6, 1),
        'errors': errors,
    }


def measure(databases: Databases, rounds: int, seconds: int) -> list[dict]:
    """Measure every server at every distance and number of connections, on the largest database.

    Args:
        databases: The databases.
        rounds: How often every server is measured. In a round, one follows the other.
        seconds: The length of one measurement.

    Raises:
        RuntimeError: wrk is missing, or a server did not start.
    """
    if not shutil.which('wrk'):
        raise RuntimeError('wrk is needed (Debian: apt install wrk)')
    size = databases.size
    url = databases.served(databases.url(size.usages))
    records = []
    for distance_ms in DISTANCES_MS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='bench-')))
            write_distant(folder, distance_ms)
            script = folder / 'requests.lua'
            lua = LUA.replace('VENUES', str(size.venues)).replace('PERSONS', str(size.persons))
            script.write_text(lua)
            servers = [stack.enter_context(running(name, url, folder)) for name in SERVERS]
            for connections in CONNECTIONS:
                print(f'database {distance_ms} ms away, {connections} connections', flush=True)
                found = {name: [] for name in SERVERS}
                for server in servers:
                    wrk(server, script, connections, WARM_UP_S)
                for number in range(rounds):
                    first = number % len(servers)
                    for server in servers[first:] + servers[:first]:
                        found[server.name].append(wrk(server, script, connections, seconds))
                key = {'distance_ms': distance_ms, 'connections': connections}
                records.append(key | {'rounds': found})
    return records
