"""`make bench`: how fast the reports are and how much memory they take, and how others do."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from db.embedded import EmbeddedServerError
from tests.bench import http, memory, sql
from tests.bench.data import Databases, Size, databases
from tests.bench.results import AVAILABLE, INACTIVITY, TOP, Results
from tests.bench.servers import BENCH_PYTHON, CORES
from tests.bench.tables import aligned, failures, filled, tables
from tests.support import ROOT

USES_PER_VENUE = 2000
BENEFITS_PER_VENUE = 5
PERSONS_PER_VENUE = 10
MIN_VENUES = 10
# statements are quicker measured than servers
SQL_ROUNDS_TIMES = 3
COMPARED = ('asyncpg', 'fastapi', 'granian', 'gunicorn', 'uvicorn')
REPORTS = [INACTIVITY, AVAILABLE, TOP]
PARTS = ('http', 'price', 'growth', 'memory')
# on other PostgreSQLs
VERSIONS = 'versions'
DRAW = 'draw'
# what lets a part fail, and no other
FAULTS = (
    EmbeddedServerError,
    psycopg.Error,
    subprocess.SubprocessError,
    OSError,
    RuntimeError,
    AssertionError,
)


def say(text: str) -> None:
    """Tell what happens now."""
    print(text, flush=True)


class Bench:
    """One run.

    Args:
        arguments: Those of the command.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        venues = arguments.venues or max(MIN_VENUES, arguments.usages // USES_PER_VENUE)
        persons = venues * PERSONS_PER_VENUE
        self._size = Size(arguments.usages, venues, venues * BENEFITS_PER_VENUE, persons)
        sizes = arguments.growth or [arguments.usages // part for part in (1000, 100, 10)]
        self._sizes = sorted({*sizes, arguments.usages} - {0})
        self._seconds = arguments.seconds
        self._rounds = arguments.rounds
        self._results = Results(arguments.out)
        self._parts = arguments.parts
        self._postgres = arguments.postgres
        self._begun: set[str] = set()
        self._load = round(os.getloadavg()[0], 2)
        self.has_failed = False

    def run(self) -> None:
        """Measure every part; what one has found stays if it or another one fails."""
        here = [part for part in PARTS if part in self._parts]
        there = self._postgres if VERSIONS in self._parts else []
        plan = [*here, *(f'{VERSIONS} ({folder})' for folder in there)]
        if here:
            with self._tried('the server'), databases(self._size) as server:
                for number, part in enumerate(here, 1):
                    self._measure(part, server, plan[number:])
        for number, folder in enumerate(there, len(here) + 1):
            os.environ['POSTGRES_BIN'] = folder
            with self._tried(folder), databases(self._size) as server:
                self._measure(VERSIONS, server, plan[number:])

    def _measure(self, part: str, where: Databases, left: list[str]) -> None:
        """Measure a part and keep what it finds.

        Args:
            part: Its name.
            where: The server for it.
            left: What is measured after it.
        """
        say(f'\n{part} on PostgreSQL {where.version}; then: {", ".join(left) or "nothing"}')
        rounds = self._rounds * SQL_ROUNDS_TIMES
        measures: dict[str, Callable[[], Iterator[dict]]] = {
            'http': lambda: http.measure(part, where, http.OTHERS, self._rounds, self._seconds),
            'price': lambda: http.measure(part, where, http.PRICE, self._rounds, self._seconds),
            'growth': lambda: sql.measure(part, where, self._sizes, REPORTS, rounds),
            'memory': lambda: memory.measure(part, where, self._rounds),
            VERSIONS: lambda: sql.measure(part, where, self._sizes, [TOP], rounds),
        }
        # of each PostgreSQL, the figures stay until it is measured again
        kept = f'{part} {where.version.partition(".")[0]}' if part == VERSIONS else part
        with self._tried(part):
            if kept not in self._begun:
                self._begun.add(kept)
                self._results.begin(kept, self._run(where.version))
            for record in measures[part]():
                self._results.add(kept, record)

    def _run(self, version: str) -> dict:
        """Return when, where and with what a part is measured."""
        size = self._size
        now = datetime.now(UTC)
        return {
            'date': f'{now:%Y-%m-%d}',
            'time': f'{now:%H:%M} UTC',
            'commit': output('git', 'describe', '--always', '--dirty'),
            'cores': CORES,
            'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
            'load at start': self._load,
            'system': platform.system(),
            'PostgreSQL': version,
            'Python': platform.python_version(),
            'packages': packages(),
            'uses': f'{size.usages:,}',
            'venues': f'{size.venues:,}',
            'benefits': f'{size.benefits:,}',
            'persons': f'{size.persons:,}',
            'seconds': self._seconds,
            'rounds': self._rounds,
        }

    @contextmanager
    def _tried(self, what: str) -> Iterator[None]:
        """Go on after the block when it fails."""
        try:
            yield
        except FAULTS as ex:
            self.has_failed = True
            print(f'error: {what}: {ex}', file=sys.stderr)


def output(*command: str) -> str:
    """Return what a command prints in the project's folder, '-' if it fails or is not there."""
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return '-'


def packages() -> dict[str, str]:
    """Return the versions of what is compared."""
    code = (
        'import importlib.metadata as m, json, sys;'
        'print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))'
    )
    found = output(str(BENCH_PYTHON), '-c', code, *COMPARED)
    return {} if found == '-' else json.loads(found)


def show(folder: Path) -> None:
    """Print the tables of all that was measured, and put them into the page of that folder."""
    results = Results(folder)
    made = tables(results)
    for table in made:
        print(f'\n{aligned(table)}', end='')
    print(f'\nRequests over HTTP that failed: {failures(results)}')
    # docs/speed.md is the page of docs/speed
    page = folder.with_suffix('.md')
    if page.exists():
        page.write_text(filled(page.read_text(), made))


def draw(folder: Path) -> bool:
    """Draw the pictures of all that was measured; returns whether it could be done."""
    command = [str(BENCH_PYTHON), '-m', 'tests.bench.pictures', str(folder.resolve())]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def between(least: int, most: int) -> Callable[[str], int]:
    """Return an argument's type: an integer from least to most."""

    def integer(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f'must be from {least} to {most}')
        return number

    return integer


def parts(text: str) -> list[str]:
    """Return an argument's parts of the bench, as they are separated by commas."""
    named = text.split(',')
    if unknown := set(named) - {*PARTS, VERSIONS, DRAW}:
        allowed = ','.join([*PARTS, VERSIONS, DRAW])
        raise argparse.ArgumentTypeError(f'no {min(unknown)!r} among {allowed}')
    return named


def main() -> int:
    """Measure the reports on throwaway databases: over HTTP, in SQL, and in memory."""
    parser = argparse.ArgumentParser(prog='python -m tests.bench', description=main.__doc__)
    count = between(1, 10**9)
    parser.add_argument('--usages', type=between(10_000, 10**9), default=2_000_000)
    parser.add_argument('--growth', type=count, nargs='*', help='fewer uses to measure SQL with')
    parser.add_argument('--venues', type=between(1, 10**6), help='default: by the uses')
    parser.add_argument('--seconds', type=between(1, 60), default=3, help='of one measurement')
    parser.add_argument('--rounds', type=between(1, 100), default=5)
    parser.add_argument(
        '--parts', type=parts, default=[*PARTS, VERSIONS, DRAW], help='separated by commas'
    )
    parser.add_argument('--postgres', nargs='*', default=[], help="folders of others' programs")
    parser.add_argument('--out', type=Path, required=True, help='the folder of all that is made')
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bench = Bench(arguments)
    try:
        bench.run()
    except KeyboardInterrupt:
        say('\nInterrupted; everything that was started is stopped and removed.')
        return 128 + signal.SIGINT
    show(arguments.out)
    has_drawn = DRAW not in arguments.parts or draw(arguments.out)
    return 0 if has_drawn and not bench.has_failed else 1


if __name__ == '__main__':
    sys.exit(main())
