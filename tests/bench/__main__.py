"""`make bench`: the speed of the reports, and of the same file on other servers."""

import argparse
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import http, sql
from tests.bench.data import Databases, Size, databases
from tests.bench.results import Results
from tests.bench.servers import BENCH_PYTHON, CORES
from tests.bench.tables import failures, filled, markdown, tables
from tests.support.project import ROOT
from tools.embedded import EmbeddedServerError

USES_PER_VENUE = 2000
MIN_VENUES = 10
PARTS = ('http', 'sql', 'unindexed', 'draw')


def describe(size: Size, version: str) -> dict:
    """Return when, where and with what a part is measured."""
    describe_commit = ['git', '-C', ROOT, 'describe', '--always', '--dirty']
    commit = subprocess.run(describe_commit, stdout=subprocess.PIPE, text=True, check=False)
    return {
        'date': f'{datetime.now(UTC):%Y-%m-%d}',
        'commit': commit.stdout.strip(),
        'cores': CORES,
        'load at start': round(os.getloadavg()[0], 2),
        'PostgreSQL': version,
        'uses': f'{size.usages:,}',
        'venues': f'{size.venues:,}',
    }


def measure(part: str, where: Databases, results: Results, arguments: argparse.Namespace) -> None:
    """Measure a part and keep its figures."""
    run = describe(where.size, where.version)
    if part == 'http':
        records = http.measure(where, arguments.rounds, arguments.seconds)
    elif part == 'sql':
        sizes = [arguments.usages // fraction for fraction in (1000, 100, 10, 1)]
        records = sql.measure(where, sizes, arguments.rounds)
        part = f'sql {where.version.partition(".")[0]}'
    else:
        sizes = [arguments.usages // fraction for fraction in (100, 10)]
        # a report may take more than ten seconds here
        records = sql.measure(where, sizes, rounds=2, has_indexes=False)
    results.replace(part, run, records)


def main() -> int:
    """Measure the reports on temporary databases: over HTTP and in SQL."""
    parser = argparse.ArgumentParser(prog='python -m tests.bench', description=main.__doc__)
    parser.add_argument('--usages', type=int, default=2_000_000)
    parser.add_argument('--seconds', type=int, default=3, help='of one measurement over HTTP')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--postgres', nargs='*', default=[], help='folders of other PostgreSQLs')
    parser.add_argument('--out', type=Path, required=True, help='the folder of what is made')
    arguments = parser.parse_args()
    # SystemExit stops the servers, as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    venues = max(MIN_VENUES, arguments.usages // USES_PER_VENUE)
    size = Size(arguments.usages, venues, benefits=5 * venues, persons=10 * venues)
    results = Results(arguments.out)
    try:
        if parts := [part for part in arguments.parts if part != 'draw']:
            with databases(size) as where:
                for part in parts:
                    measure(part, where, results, arguments)
        for folder in arguments.postgres if 'sql' in parts else []:
            os.environ['POSTGRES_BIN'] = folder
            with databases(size) as where:
                measure('sql', where, results, arguments)
    except (RuntimeError, EmbeddedServerError) as ex:
        sys.exit(f'error: {ex}')
    made = tables(results)
    print(*map(markdown, made), sep='\n')
    # for docs/speed, these are docs/speed.md and docs/operating.md
    for page in (arguments.out.with_suffix('.md'), arguments.out.with_name('operating.md')):
        if page.exists():
            page.write_text(filled(page.read_text(), made))
    if 'draw' in arguments.parts:
        draw = [str(BENCH_PYTHON), '-m', 'tests.bench.pictures', str(arguments.out.resolve())]
        subprocess.run(draw, cwd=ROOT, check=True)
    if failed := failures(results):
        sys.exit(f'error: {failed} requests over HTTP failed')
    return 0


if __name__ == '__main__':
    sys.exit(main())
