"""`make compare`: compare the answers and the cost of two versions of a report's SQL file.

Both run with values from compare_parameters.sql, on the same snapshot and with the same now().
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.errors import QueryCanceled
from tqdm import tqdm

from api import StartError
from api.config import Settings, load_settings
from api.database.connection import Connection, connection_parameters, in_one_line
from api.database.queries import FOLDER, Query, QueryFileError, Values, find_query, load_query
from api.server import check

PARAMETERS = Path(__file__).with_name('compare_parameters.sql')
COST = Path(__file__).with_name('compare_cost.sql')
TABLE_SIZES = FOLDER.with_name('table_sizes.sql')
COST_EVERY = 10  # the cost is measured with one of this many sets of values
ABSENT = object()
Versions = dict[str, Query]  # the keys are 'old' and 'new'


def load_versions(name: str, other: str, settings: Settings) -> Versions:
    """Load the versions 'old' and 'new': the service's file, and what it is compared with.

    Args:
        name: The report, such as top_benefits.
        other: A file, which is then the new version, or a git revision, which is the old one.
        settings: Where the service's files are.

    Raises:
        QueryFileError: A version does not exist or is invalid, or their parameters differ.
    """
    ours = find_query(name, settings.functions)
    ours = replace(ours, path=Path(os.path.relpath(ours.path)))
    if is_file := Path(other).is_file():
        place, text = other, Path(other).read_bytes()
    else:
        place = f'{other}:./{ours.path}'
        command = ['git', 'show', '--end-of-options', place]
        shown = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if shown.returncode:
            raise QueryFileError(f'WITH is not a file, and git cannot show {place}')
        text = shown.stdout
    theirs = load_text(name, place, text)
    if set(theirs.parameters) != set(ours.parameters):
        raise QueryFileError(f'{place}: must have the parameters of {ours.path}')
    return {'old': ours, 'new': theirs} if is_file else {'old': theirs, 'new': ours}


def load_text(name: str, place: str, text: bytes) -> Query:
    """Load a text like a report's file; error messages name the place of the text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'{name}.sql')
        path.write_bytes(text)
        try:
            return replace(load_query(path), path=Path(place))
        except QueryFileError as ex:
            raise QueryFileError(str(ex).replace(str(path), place)) from ex


def connect(settings: Settings) -> Connection:
    """Connect like the service, but without a client-side timeout: drawing values can take long."""
    connection = Connection.connect(**connection_parameters(settings))
    connection.set_up(settings)
    connection.wait = super(Connection, connection).wait
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


def execute(connection: Connection, query: Query, values: dict[str, Any]) -> tuple:
    """Run a query with a value for each of its parameters; returns its row."""
    arguments = [values[each.name] for each in query.parameters]
    return connection.execute(query.sql, arguments).fetchone() or (None, 'no row')


def draw_sets(connection: Connection, versions: Versions, count: int, seed: int) -> list[Values]:
    """Draw sets of values, all different: count, or as many as there are."""
    texts = [query.sql.decode() for query in versions.values()]
    arguments = {'texts': texts, 'seed': seed, 'set_count': count}
    with connection.transaction(), tqdm(bar_format='drawing values ...', disable=None, leave=False):
        connection.execute('set local statement_timeout = 0')
        [body] = execute(connection, load_query(PARAMETERS), arguments)
    names = [each.name for each in versions['old'].parameters]
    sets = dict.fromkeys(tuple((name, row[name]) for name in names) for row in json.loads(body))
    return [dict(each) for each in sets][:count]


def find_differing(connection: Connection, versions: Versions, sets: list[Values]) -> list[tuple]:
    """Return the sets whose answers differ, with both; raises QueryFileError if a version fails."""
    differing = []
    for values in tqdm(sets, desc='answers', disable=None, leave=False):
        rows = []
        with connection.transaction():
            for query in versions.values():
                try:
                    rows.append(execute(connection, query, values))
                except psycopg.Error as ex:
                    hint = '; TIMEOUT=60 allows 60 s' if isinstance(ex, QueryCanceled) else ''
                    raise QueryFileError(f'{query.path}, {values}: {in_one_line(ex)}{hint}') from ex
        if rows[0] != rows[1]:
            differing.append((values, *rows))
    return differing


def describe_difference(values: Values, *rows: tuple) -> list[str]:
    """Return lines with the values, and the first element in which their two answers differ."""
    lines = [wrapped(' '.join(f'{name}={value or "null"}' for name, value in values.items()))]
    old, new = ({'missing': row[1], 'body': json.loads(row[0] or b'null')} for row in rows)
    if old == new:
        return [*lines, '  The JSON is equal, but its bytes differ.']
    place, old, new = first_difference(old, new)
    lines.append(wrapped(f'  {place[2:]}:'))
    for version, element in (('old', old), ('new', new)):
        text = 'absent' if element is ABSENT else json.dumps(element, ensure_ascii=False)
        lines.append(wrapped(f'    {version}: {text}', limit=4))
    return lines


def first_difference(old: Any, new: Any, place: str = '') -> tuple[str, Any, Any]:
    """Return the place and the values of the first element that differs in two JSON values."""
    if type(old) is type(new):
        old_parts, new_parts = parts(old), parts(new)
        for name in old_parts | new_parts:
            pair = old_parts.get(name, ABSENT), new_parts.get(name, ABSENT)
            if pair[0] != pair[1]:
                return first_difference(*pair, f'{place}, {name}')
    return place, old, new


def parts(value: Any) -> dict[str, Any]:
    """Return the members of an object, or the elements of an array by their first member."""
    if isinstance(value, list) and all(isinstance(each, dict) and each for each in value):
        return {' '.join(map(str, next(iter(each.items())))): each for each in value}
    return value if isinstance(value, dict) else {}


def wrapped(line: str, limit: int | None = None) -> str:
    """Return a line as lines of at most 80 columns; '...' replaces those beyond the limit."""
    indent = ' ' * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(line, 80, subsequent_indent=indent, max_lines=limit, placeholder=' ...')


def psql(query: Query, values: Values) -> str:
    """Return a shell command that runs a version with a set of values."""
    show = 'git show' if ':' in str(query.path) else 'cat'
    command = [f'{show} {query.path} |', 'PGTZ=UTC psql "$DATABASE_URL" -XAt']
    for name, value in values.items():
        command.append(f'-v {name}=' + ('NULL' if value is None else f'"\'{value}\'"'))
    return ' \\\n  '.join(command)


def measure(connection: Connection, versions: Versions, sets: list[Values]) -> list[dict]:
    """Return EXPLAIN's output for executions of both versions, each with 'mode' and 'version'.

    It has no time per node, because this slows down a plan in which many rows pass between nodes.
    """
    for version, query in versions.items():
        connection.execute(f'prepare {version} as '.encode() + query.sql)
    order = (*versions, *reversed(versions))
    turns = [(m, v, values) for m in ('custom', 'generic') for values in sets for v in order]
    executions = []
    for mode, version, values in tqdm(turns, desc='cost', disable=None, leave=False):
        arguments = [values[each.name] for each in versions[version].parameters]
        call = f'execute {version} ({", ".join(["%s"] * len(arguments))})'
        with connection.transaction():
            connection.execute(f'set local plan_cache_mode = force_{mode}_plan')
            cursor = psycopg.ClientCursor(connection).execute(
                f'explain (analyze, buffers, timing off, format json) {call}', arguments
            )
        [explained] = json.loads(cursor.fetchone()[0])
        executions.append({'mode': mode, 'version': version, **explained})
    return executions


def describe_cost(connection: Connection, versions: Versions, sets: list[Values]) -> list[str]:
    """Return the verdict about the cost, and texts about the server and about the cost."""
    try:
        executions = json.dumps(measure(connection, versions, sets))
        verdict, report, tables = execute(connection, load_query(COST), {'executions': executions})
    except QueryCanceled as ex:
        verdict, report, tables = 'cost not measured; see TIMEOUT', in_one_line(ex), ''
    text = TABLE_SIZES.read_text().replace(":'tables'", psycopg.sql.quote(tables or ''))
    [sizes] = connection.execute(text).fetchone()
    return [verdict, *('\n'.join(map(wrapped, each.splitlines())) for each in (sizes, report))]


def run(arguments: argparse.Namespace) -> int:
    """Compare two versions and print the report; returns the exit status."""
    settings = load_settings()
    versions = load_versions(arguments.function, arguments.other, settings)
    with connect(settings) as connection:
        for query in versions.values():
            check.run(connection, query)
        sets = draw_sets(connection, versions, arguments.count, arguments.seed)
        differing = find_differing(connection, versions, sets)
        cost_verdict, server, cost = describe_cost(connection, versions, sets[::COST_EVERY])
    result, count = ('differ', len(differing)) if differing else ('equal', len(sets))
    same = '; both versions are the same' if versions['old'].sql == versions['new'].sql else ''
    verdict = f'{count} of {len(sets)} answers {result}; {cost_verdict}{same}'
    lines = [f'{version}: {query.path}' for version, query in versions.items()]
    lines += [server, f'{len(sets)} sets of values, seed {arguments.seed}', '']
    if differing:
        lines.append('Examples of different answers, each with the first element that differs:')
        for example in differing[:3]:
            lines += describe_difference(*example)
        lines += ['', 'The first example in psql (a temporary database is gone, see db/README.md):']
        lines += [psql(query, differing[0][0]) for query in versions.values()] + ['']
    lines.append(cost)
    if arguments.format == 'markdown':
        verdict, lines = f'**{verdict}**', ['```text', *lines, '```']
    print(verdict, '', *lines, sep='\n')
    return 1 if differing else 0


def main() -> int:
    """Run the command; returns its exit status: 2 if the versions could not be compared."""
    parser = argparse.ArgumentParser(prog='python -m tools.compare', description=__doc__)
    reports = sorted(path.stem for path in FOLDER.glob('*.sql'))
    parser.add_argument('function', metavar='FUNCTION', choices=reports, help='the report')
    parser.add_argument('other', metavar='WITH', help='a git revision of its file, or a file')
    parser.add_argument('--count', type=int, default=200, help='how many sets of values')
    parser.add_argument('--seed', type=int, default=1, help='which sets')
    parser.add_argument('--format', choices=['text', 'markdown'], default='text')
    arguments = parser.parse_args()
    if not arguments.other or arguments.count < 1:
        parser.error('WITH must name a git revision or a file, and COUNT must be at least 1')
    try:
        return run(arguments)
    except (StartError, OSError, psycopg.Error) as ex:
        parser.exit(2, f'error: {in_one_line(ex)}\n')
    except KeyboardInterrupt:
        return 130  # as shells do


if __name__ == '__main__':
    sys.exit(main())
