"""The tables that are made of the figures, in Markdown, for the terminal and for docs/speed.md."""

import re
from collections.abc import Callable
from statistics import median

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
    Results,
    ratio,
)

# the first row has the columns' titles; the first of them is the table's name, up to a comma
Table = list[list[str]]

NOTHING = '-'


def number(value: float | None) -> str:
    """Return a figure with three digits, or all before the point."""
    if value is None:
        return NOTHING
    return (
        f'{value:,.0f}' if isinstance(value, int) or value >= 100 else f'{value:#.3g}'.rstrip('.')
    )


def figures(record: dict, server: str, name: str) -> list[float]:
    """Return the rounds of one figure of a server."""
    return [figures[name] for figures in record['rounds'].get(server, []) if name in figures]


def ratio_of(record: dict, these: str, those: str, name: str = 'per_s') -> float | None:
    """Return the median of the rounds' ratios of two servers, None where one has no figures."""
    pair = figures(record, these, name), figures(record, those, name)
    return ratio(*pair) if all(pair) else None


def middle(record: dict, server: str, name: str) -> float | None:
    """Return the median of a server's rounds, None where it has none."""
    return median(found) if (found := figures(record, server, name)) else None


def runs(results: Results) -> Table:
    """Return when, where and with what was measured."""
    names = ['date', 'commit', 'cores', 'load at start', 'PostgreSQL', 'uses', 'venues']
    parts: dict[tuple[str, ...], list[str]] = {}
    for part, run in results.runs().items():
        servers = {r['postgresql']: None for r in results.records(part) if 'postgresql' in r}
        run['PostgreSQL'] = ' and '.join(servers) or run['PostgreSQL']
        parts.setdefault(tuple(str(run[name]) for name in names), []).append(part)
    return [['run', *names], *([', '.join(of), *values] for values, of in parts.items())]


def by_connections(
    results: Results, title: str, rows: dict[str, Callable[[dict], float | str | None]]
) -> Table:
    """Return a table with a column for each number of connections that asked available_benefits.

    Args:
        results: What was measured.
        title: The table's name.
        rows: What is shown of a record, by the row's title.
    """
    records = results.records('http', report=AVAILABLE)
    head = [title, *(str(record['connections']) for record in records)]
    return [head, *([name, *(cell(show(r)) for r in records)] for name, show in rows.items())]


def cell(value: float | str | None) -> str:
    """Return a table's cell."""
    return value if isinstance(value, str) else number(value)


def servers(results: Results) -> list[str]:
    """Return who answered available_benefits."""
    return list(next(iter(results.records('http', report=AVAILABLE)), {'rounds': {}})['rounds'])


def answers(results: Results) -> Table:
    """Return answers in a second."""
    rows = {name: lambda r, name=name: middle(r, name, 'per_s') for name in servers(results)}
    return by_connections(results, 'answers/s, by connections', rows)


def ratios(results: Results) -> Table:
    """Return how many times as many answers ours gives: quiet against who is quiet, and not."""
    pairs = [(OURS, name) for name in (FASTAPI, FASTAPI_QUIET, PGBENCH)]
    pairs += [(OURS_QUIET, name) for name in (FASTAPI_QUIET, GRANIAN, GUNICORN)]
    rows = {
        f'{these} / {those}': lambda r, these=these, those=those: ratio_of(r, these, those)
        for these, those in pairs
    }
    return by_connections(results, 'ratios of answers/s', rows)


def latencies(results: Results) -> Table:
    """Return the time within which 99 of 100 answers came."""
    names = [name for name in servers(results) if name != PGBENCH]
    rows = {name: lambda r, name=name: middle(r, name, 'p99_ms') for name in names}
    return by_connections(results, 'p99 in ms, by connections', rows)


def spreads(results: Results) -> Table:
    """Return how many connections the worker with most of them had, over the rounds."""

    def most(record: dict, server: str) -> str:
        counts = sorted({spread[0] for spread in figures(record, server, 'spread')})
        return '-'.join(dict.fromkeys(map(str, (counts[0], counts[-1]))))

    rows = {
        name: lambda r, name=name: most(r, name)
        for name in (OURS, FASTAPI_QUIET, GRANIAN, GUNICORN)
    }
    return by_connections(results, 'connections of the fullest worker, by connections', rows)


def others(results: Results) -> Table:
    """Return the other reports over HTTP."""
    titles = ['answers/s', 'p50 ms', 'p99 ms', 'ours / FastAPI quiet', 'ours / pgbench']
    return [
        ['over HTTP', 'connections', *titles],
        *(
            [record['report'], str(record['connections'])]
            + [number(middle(record, OURS, name)) for name in ('per_s', 'p50_ms', 'p99_ms')]
            + [number(ratio_of(record, OURS, name)) for name in (FASTAPI_QUIET, PGBENCH)]
            for report in (INACTIVITY, TOP)
            for record in results.records('http', report=report)
        ),
    ]


def price(results: Results, without: str) -> float | None:
    """Return how many percent of the answers a part of the service costs."""
    [*records] = results.records('price')
    found = ratio_of(records[0], OURS, without) if records else None
    return None if found is None else 100 * (1 - found)


def prices(results: Results) -> Table:
    """Return what the log and the metrics cost."""
    rows = {'the access log': OURS_QUIET, 'the metrics': OURS_UNCOUNTED}
    return [
        ['price of', 'of answers/s'],
        *(
            [name, f'{percent:.1f} %']
            for name, without in rows.items()
            if (percent := price(results, without)) is not None
        ),
    ]


def growth(results: Results) -> Table:
    """Return the time of each form of each report by the number of uses."""
    sizes = sorted({record['uses'] for record in results.records('growth')})
    rows = []
    for report in (INACTIVITY, AVAILABLE, TOP):
        records = {r['uses']: r['ms'] for r in results.records('growth', report=report)}
        forms = next(iter(records.values()), {}).keys() - {'alone'}
        for form, title in {'ours': report, 'plain': 'plain form', 'count': 'bare count'}.items():
            if form in forms:
                rows.append([title, *(number(median(ms[form])) for ms in records.values())])
        if forms:
            faster = (number(ratio(ms['plain'], ms['ours'])) for ms in records.values())
            rows.append(['plain form / ours', *faster])
    return [['ms in SQL, by uses', *(f'{uses:,}' for uses in sizes)], *rows]


def of_postgres(results: Results) -> list[str]:
    """Return the parts that measured PostgreSQLs, the more thorough one first."""
    return ['growth', *(part for part in results.runs() if part.startswith('versions'))]


def versions(results: Results) -> Table:
    """Return top_benefits against its plain form on several PostgreSQLs."""
    # of a version that both parts measured, the later figures
    found = {
        (int(r['postgresql'].partition('.')[0]), r['uses']): r
        for r in results.records(*of_postgres(results), report=TOP)
    }
    sizes = sorted({uses for _, uses in found})
    rows = []
    for version in sorted({version for version, _ in found}):
        of = [found.get((version, uses), {}).get('ms') for uses in sizes]
        rows.append(
            [
                f'{version}: plain form / ours',
                *(number(ms and ratio(ms['plain'], ms['ours'])) for ms in of),
            ]
        )
    return [['top_benefits on PostgreSQL, by uses', *(f'{uses:,}' for uses in sizes)], *rows]


def memory(results: Results) -> Table:
    """Return what a large answer costs."""
    rows = []
    for record in results.records('memory'):
        size, peak, after = (
            median(found[name] for found in record['rounds'])
            for name in ('answer', 'peak', 'after')
        )
        rows.append(
            [
                f'top_benefits of {record["venues"]:,} venues',
                *(f'{number(value / 1e6)} MB' for value in (size, peak)),
                number(peak / size),
                f'{number(after / 1e6)} MB',
            ]
        )
    above = ['above idle at most', 'in answers', 'kept afterwards']
    return [['memory of a process', 'answer', *above], *rows]


def targets(results: Results) -> Table:
    """Return the figures that are meant to be reached, and whether they are."""
    http = {r['connections']: r for r in results.records('http', report=AVAILABLE)}
    sql = {(r['report'], r['uses']): r['ms'] for r in results.records('growth')}
    most = max((uses for _, uses in sql), default=0)
    inactivity = sql.get((INACTIVITY, most))
    hundredth = sql.get((INACTIVITY, most // 100))
    large = results.records('memory', venues=100_000)
    rows: list[tuple[str, float | None, str, float]] = []
    for connections, name in {2: '', 4: '', 16: ', aim 1.2', 64: ', aim 1.2'}.items():
        if record := http.get(connections):
            found = ratio_of(record, OURS, FASTAPI_QUIET)
            rows.append((f'ours / {FASTAPI_QUIET}, {connections} connections{name}', found, '>', 1))
    if record := http.get(16):
        quiet = ratio_of(record, OURS_QUIET, FASTAPI_QUIET)
        rows += [
            (f'{OURS_QUIET} / {FASTAPI_QUIET}, 16 connections: the aim', quiet, '>', 1.3),
            ('ours / pgbench, 16 connections, aim 0.3', ratio_of(record, OURS, PGBENCH), '>', 0.17),
            (
                'of 16 connections, the fullest worker has',
                max(spread[0] for spread in figures(record, OURS, 'spread')),
                '<',
                10,
            ),
        ]
    if record := http.get(64):
        slower = ratio_of(record, OURS, FASTAPI_QUIET, 'p99_ms')
        rows.append((f'p99, ours / {FASTAPI_QUIET}, 64 connections', slower, '<', 1))
    rows += [
        ('price of the log in percent', price(results, OURS_QUIET), '<', 5),
        ('price of the metrics in percent', price(results, OURS_UNCOUNTED), '<', 5),
        (
            'inactivity_periods, plain form / ours, meant at 20,000,000 uses',
            inactivity and ratio(inactivity['plain'], inactivity['ours']),
            '>',
            500,
        ),
        (
            'inactivity_periods, time against a hundredth of the uses',
            inactivity and hundredth and ratio(inactivity['alone'], hundredth['alone']),
            '<',
            1.2,
        ),
        (
            'top_benefits, memory in sizes of the answer of 100,000 venues',
            median(f['peak'] / f['answer'] for f in large[0]['rounds']) if large else None,
            '<',
            3,
        ),
    ]
    for record in results.records(*of_postgres(results), report=TOP):
        if record['uses'] == most:
            title = f'top_benefits, plain form / ours, {most:,} uses, {record["postgresql"]}'
            rows.append((title, ratio(record['ms']['plain'], record['ms']['ours']), '>', 1.5))
    return [
        ['target', 'measured', 'limit', 'reached'],
        *(
            [
                title,
                number(value),
                f'{sign}= {limit:g}',
                NOTHING if value is None else 'yes' if within(value, sign, limit) else 'no',
            ]
            for title, value, sign, limit in rows
        ),
    ]


def within(value: float, sign: str, limit: float) -> bool:
    """Tell whether a figure is on the right side of its limit."""
    return value >= limit if sign == '>' else value <= limit


def failures(results: Results) -> int:
    """Return how many requests over HTTP failed."""
    return sum(
        error
        for record in results.records('http', 'price')
        for server in record['rounds']
        for error in figures(record, server, 'errors')
    )


def tables(results: Results) -> list[Table]:
    """Return all tables of which something was measured."""
    makers = (
        *(runs, answers, ratios, latencies, spreads, others, prices),
        *(growth, versions, memory, targets),
    )
    return [table for make in makers if len(table := make(results)) > 1 and len(table[0]) > 1]


def markdown(table: Table) -> str:
    """Return a table as it stands in a page."""
    head, *rows = (f'|{"|".join(line)}|\n' for line in table)
    return f'{head}| ---{"|--:" * (len(table[0]) - 1)}|\n{"".join(rows)}'


def aligned(table: Table) -> str:
    """Return a table as a terminal shows it."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]  # numbers to the right
        for line in table
    ]
    return ''.join('  '.join(line) + '\n' for line in lines)


def filled(page: str, made: list[Table]) -> str:
    """Return a page with those of its tables made anew that have the name of one that is given."""
    for table in made:
        name = re.escape(table[0][0].partition(',')[0])
        pattern = rf'^\|{name}(?:,[^|\n]*)?\|.*\n(?:\|.*\n)+'
        page = re.sub(pattern, markdown(table), page, flags=re.MULTILINE)
    return page
