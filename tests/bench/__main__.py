"""`make bench`: how fast the reports are and how much memory they take, and how others do."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from db.embedded import EmbeddedServer, EmbeddedServerError
from tests.bench import http, memory, sql
from tests.bench.data import Size, busiest_venue, fill, make_database, server_options
from tests.bench.servers import FASTAPI

USES_PER_VENUE = 2000
BENEFITS_PER_VENUE = 5
PERSONS_PER_VENUE = 10
MIN_VENUES = 10
# the ratio of inactivity_periods to its plain form depends on how much the plain form has to read
FULL_USAGES = 20_000_000


def say(text: str) -> None:
    """Tell what happens now."""
    print(text, flush=True)


def show(title: str, rows: list[dict]) -> None:
    """Print rows of the same keys as a table."""
    if not rows:
        return
    cells = [list(rows[0])] + [['-' if v is None else str(v) for v in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f'\n{title}')
    for line in cells:
        print('  ' + '  '.join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def targets(results: dict[str, list[dict]], usages: int) -> list[dict]:
    """Return a row for each figure that the service is meant to reach.

    Args:
        results: The rows of the other tables by name.
        usages: How many uses were loaded.
    """

    def value(table: str, column: str, **key: object) -> float | None:
        found = (r[column] for r in results[table] if key.items() <= r.items())
        return next(found, None)

    at_16 = {'report': 'available_benefits', 'connections': 16}
    http_ratio = value('http', 'ours/this', server=FASTAPI, **at_16)
    figures = [
        (
            f'inactivity_periods, times as fast as the plain form (meant at {FULL_USAGES:,} uses)',
            value('sql', 'plain/ours', report='inactivity_periods', uses=usages),
            200,
            None,
        ),
        (
            'inactivity_periods, time against a hundredth of the uses',
            value('sql', 'growth', report='inactivity_periods', uses=usages),
            None,
            1.5,
        ),
        (
            'top_benefits, times as fast as the plain form (aim 2)',
            value('sql', 'plain/ours', report='top_benefits', uses=usages),
            1.5,
            None,
        ),
        (
            'top_benefits, time against a bare count (aim 1.0)',
            value('sql', 'ours/count', report='top_benefits', uses=usages),
            None,
            1.7,
        ),
        (
            'available_benefits, answers/s against FastAPI at 16 connections (aim 1.3)',
            http_ratio,
            1.0,
            None,
        ),
        (
            'top_benefits, memory above idle in sizes of the answer of 100,000 venues',
            value('memory', 'peak/answer', venues=100_000),
            None,
            3,
        ),
    ]
    return [
        {
            'figure': figure,
            'measured': measured,
            'target': f'>= {least}' if least else f'<= {most}',
            'reached': reached(measured, least, most),
        }
        for figure, measured, least, most in figures
    ]


def reached(measured: float | None, least: float | None, most: float | None) -> str:
    """Return whether a figure is within its limits."""
    if measured is None:
        return 'not measured'
    within = (least is None or measured >= least) and (most is None or measured <= most)
    return 'yes' if within else 'no'


def machine(url: str) -> list[dict]:
    """Return one row about what was measured on."""
    with psycopg.connect(url) as connection:
        version = connection.execute('show server_version').fetchone()[0]
    return [
        {
            'cores': os.cpu_count(),
            'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
            'load_at_start': round(os.getloadavg()[0], 2),
            'system': platform.system(),
            'python': platform.python_version(),
            'postgresql': version.split()[0],
        }
    ]


def run(size: Size, seconds: int) -> dict[str, list[dict]]:
    """Load, measure and clean up; returns the rows of every table by name."""
    results = {}
    options = server_options()
    listed = ', '.join(f'{name}={value}' for name, value in options.items())
    say(f'Starting a throwaway PostgreSQL with {listed} ...')
    with EmbeddedServer(**options) as server:
        results['machine'] = machine(server.url())
        urls = {}
        for part in (100, 10, 1):
            usages = size.usages // part
            say(
                f'Loading {usages:,} uses over 400 days, {size.venues:,} venues,'
                f' {size.benefits:,} benefits, {size.persons:,} persons ...'
            )
            urls[usages] = make_database(server, f'uses_{usages}')
            fill(urls[usages], Size(usages, size.venues, size.benefits, size.persons))
        url = urls[size.usages]
        venue = busiest_venue(url)
        say(f'SQL (the busiest venue is {venue}):')
        results['sql'] = sql.measure(urls, size, venue, seconds, say)
        report_s = {
            row['report']: row['ours_ms'] / 1000
            for row in results['sql']
            if row['uses'] == size.usages
        }
        say('HTTP:')
        results['http'] = http.measure(
            url, server.binaries, size, report_s=report_s, seconds=seconds, say=say
        )
        say('Memory:')
        results['memory'] = memory.measure(server, say)
        say('Stopping the server and removing its files ...')
    results['target'] = targets(results, size.usages)
    return results


def between(least: int, most: int) -> Callable[[str], int]:
    """Return an argument's type: an integer from least to most."""

    def integer(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f'must be from {least} to {most}')
        return number

    return integer


def main() -> int:
    """Measure the reports on a throwaway database, in SQL, over HTTP and in memory."""
    parser = argparse.ArgumentParser(prog='python -m tests.bench', description=main.__doc__)
    parser.add_argument('--usages', type=between(10_000, 10**9), default=2_000_000)
    parser.add_argument('--venues', type=between(1, 10**6), help='default: by the uses')
    parser.add_argument('--seconds', type=between(1, 60), default=3, help='of one measurement')
    parser.add_argument('--out', type=Path, help='where the tables go as JSON')
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    venues = arguments.venues or max(MIN_VENUES, arguments.usages // USES_PER_VENUE)
    size = Size(arguments.usages, venues, venues * BENEFITS_PER_VENUE, venues * PERSONS_PER_VENUE)
    try:
        results = run(size, arguments.seconds)
    except KeyboardInterrupt:
        say('\nInterrupted; everything that was started is stopped and removed.')
        return 128 + signal.SIGINT
    except (
        EmbeddedServerError,
        psycopg.Error,
        subprocess.TimeoutExpired,
        RuntimeError,
        AssertionError,
    ) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    titles = {
        'machine': 'Machine',
        'sql': (
            "In SQL: medians, also of the rounds' ratios. ours and plain_cached may have a plan for"
            ' any values, plain is planned for its own; growth is against a hundredth of the uses'
        ),
        'http': f'Over HTTP: medians of {http.ROUNDS} rounds in turns',
        'memory': 'Memory of one process, medians of fresh ones; peak and after are above idle',
        'target': 'Targets',
    }
    for name, title in titles.items():
        show(title, results[name])
    if arguments.out:
        loaded = {'seconds': arguments.seconds} | vars(size)
        arguments.out.write_text(json.dumps({'options': loaded} | results, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
