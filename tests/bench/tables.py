"""The tables of the measurements, in Markdown, for the terminal and for pages in docs/."""

import re
from collections.abc import Iterator
from statistics import median

from tests.bench.results import (
    FASTAPI,
    FASTAPI_ALONE,
    GRANIAN,
    GTHREAD,
    OURS,
    OURS_ALONE,
    REPORTS,
    SERVERS,
    Results,
    ratio,
)

# the first row has the column titles; its first cell, up to a comma, is the table's name
Table = list[list[str]]

RUN_COLUMNS = ['date', 'commit', 'cores', 'load at start', 'PostgreSQL', 'uses', 'venues']


def number(value: float) -> str:
    """Return a figure with three digits, or with all digits before the point."""
    if isinstance(value, int) or value >= 100:
        return f'{value:,.0f}'
    return f'{value:#.3g}'.rstrip('.')


def figures(record: dict, server: str, name: str) -> list[float]:
    """Return the rounds of a figure of a server."""
    return [found[name] for found in record['rounds'][server]]


def runs(results: Results) -> Table:
    """Return when, where and with what every part was measured."""
    found = results.runs().items()
    rows = [[part, *(str(run[name]) for name in RUN_COLUMNS)] for part, run in found]
    return [['run', *RUN_COLUMNS], *rows]


def http(results: Results) -> Iterator[Table]:
    """Return a table for each figure over HTTP, with a column per distance and connections."""
    records = results.records('http')
    if not records:
        return
    columns = [f'{r["distance_ms"]} ms, {r["connections"]}' for r in records]
    for name, title in {
        'per_s': 'responses/s, by latency and connections',
        'cpu_us': 'CPU time per response in µs',
    }.items():
        rows = [
            [server, *(number(median(figures(record, server, name))) for record in records)]
            for server in SERVERS
        ]
        yield [[title, *columns], *rows]
    compared = [
        *((f'responses/s of {name}', OURS, name, 'per_s') for name in SERVERS[1:-2]),
        (f'responses/s of {FASTAPI_ALONE} each', OURS_ALONE, FASTAPI_ALONE, 'per_s'),
        ('CPU time of FastAPI', OURS, FASTAPI, 'cpu_us'),
    ]
    rows = [
        [title, *(number(ratio(figures(r, a, name), figures(r, b, name))) for r in records)]
        for title, a, b, name in compared
    ]
    yield [['this service divided by', *columns], *rows]


def servers(results: Results) -> Table:
    """Return a table of the servers that can run the application, on the most connections."""
    found = results.records('http')
    found = [r for r in found if r['connections'] == found[-1]['connections']]
    rows = [
        [
            server,
            *(number(median(figures(record, server, 'per_s'))) for record in found),
            *(number(median(figures(record, server, 'cpu_us'))) for record in found[:1]),
        ]
        for server in (OURS, GRANIAN, GTHREAD)
    ]
    columns = [f'{record["distance_ms"]} ms' for record in found]
    return [['server, by latency', *columns, 'CPU time in µs'], *rows]


def sql(results: Results, part: str, title: str) -> Table:
    """Return the time of every form of every report in a part, by the number of uses."""
    rows = []
    for report in REPORTS:
        found = results.records(part, report=report)
        for form, ending in {'ours': '', 'plain': ', plain', 'count': ', bare count'}.items():
            if found and form in found[0]['ms']:
                times = [number(median(record['ms'][form])) for record in found]
                rows.append([report + ending, *times])
    sizes = {r['uses']: None for r in results.records(part)}
    return [[title, *(f'{uses:,}' for uses in sizes)], *rows]


def versions(results: Results) -> Table:
    """Return the time of every function file on all PostgreSQL versions except the newest."""
    rows = []
    for report in REPORTS:
        for part in results.sql_parts()[:-1]:
            found = results.records(part, report=report)
            times = [number(median(record['ms']['ours'])) for record in found]
            rows.append([f'{report}, {part.removeprefix("sql ")}', *times])
    sizes = {record['uses']: None for record in results.records(results.sql_parts()[0])}
    return [['ms on older PostgreSQL, by uses', *(f'{uses:,}' for uses in sizes)], *rows]


def failures(results: Results) -> int:
    """Return the number of failed requests over HTTP."""
    records = results.records('http')
    return sum(e for r in records for server in r['rounds'] for e in figures(r, server, 'errors'))


def tables(results: Results) -> list[Table]:
    """Return the tables of everything that was measured."""
    found = [runs(results), *http(results)]
    if results.records('http'):
        found.append(servers(results))
    if parts := results.sql_parts():
        found += [
            sql(results, parts[-1], 'ms in SQL, by uses'),
            sql(results, 'unindexed', 'ms without indexes, by uses'),
            versions(results),
        ]
    return [table for table in found if len(table) > 1]


def markdown(table: Table) -> str:
    """Return a table as it stands in a page, with numbers aligned to the right."""
    first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
    widths = [first, *(width + 1 for width in others)]
    head, *rows = (
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in table
    )
    dashes = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    return ''.join(f'|{"|".join(line)}|\n' for line in (head, dashes, *rows))


def filled(page: str, made: list[Table]) -> str:
    """Return a page with every table replaced by the given one of the same name."""
    for table in made:
        name = re.escape(table[0][0].partition(',')[0])
        pattern = rf'^\| ?{name}(?:,[^|\n]*)? *\|.*\n\| ?-.*\n(?:\|.*\n)*'
        page = re.sub(pattern, markdown(table), page, flags=re.MULTILINE)
    return page
