"""`make compare`: run two versions of a report's SQL file, and compare answers and cost.

Both versions run with every set of values that compare_parameters.sql draws. They see the same
snapshot and the same now(), in a transaction that can only read. The cost is measured with some of
these sets.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import psycopg
from msgspec import structs
from tqdm import tqdm

from api.config import ConfigError, Settings, load_settings
from api.database.connection import Connection, connection_parameters, describe, in_one_line
from api.database.queries import FOLDER, Query, QueryFileError, Values, find_query, load_query
from api.server import check
from tools.compare_answers import Outcome, bound, compare, difference
from tools.compare_cost import Plans, changed_nodes, describe_server, measure, table, verdict

PARAMETERS = Path(__file__).with_name('compare_parameters.sql')
# interval '24 hours', interval '24' hour, '24 hours'::interval, cast('24 hours' as interval)
INTERVAL = re.compile(
    r"\binterval\s*'([^']+)'(?:\s*(year|month|day|hour|minute|second)\b)?"
    r"|'([^']+)'(?:\s*::\s*|\s+as\s+)interval\b",
    re.IGNORECASE,
)
COMMENT = re.compile('--.*')
# the cost is measured with one of so many sets
COST_EVERY = 10
DRAW_TIMEOUT_S = 3600.0
THROWAWAY = (
    'The database is gone now. For one that stays, leave make psql open, and compare with the'
    ' DATABASE_URL that it prints.'
)

# the two versions of a query by 'old' and 'new'; a path with a colon is a place in git
Versions = dict[str, Query]


def load_versions(name: str, other: str, settings: Settings) -> Versions:
    """Load the old and the new version of a report.

    Args:
        name: The report, such as top_benefits.
        other: What the service's file is compared with: a file, which then is the new version, or
            a git revision, which is the old one.
        settings: Where the service's files are.

    Raises:
        QueryFileError: A version is not there or breaks a rule, or their parameters differ.
    """
    names = sorted(path.stem for path in FOLDER.glob('*.sql'))
    if name not in names:
        raise QueryFileError(f'FUNCTION must be one of: {" ".join(names)}')
    ours = find_query(name, settings.functions)
    ours = replace(ours, path=Path(os.path.relpath(ours.path)))
    is_file = Path(other).is_file()
    place = other if is_file or ':' in other else f'{other}:./{ours.path}'
    theirs = load_text(name, place, Path(place).read_bytes() if is_file else git_show(place))
    if set(theirs.parameters) != set(ours.parameters):
        raise QueryFileError(f'{place}: must have the parameters of {ours.path}')
    return {'old': ours, 'new': theirs} if is_file else {'old': theirs, 'new': ours}


def git_show(place: str) -> bytes:
    """Return the text at a place in git, REVISION:PATH; raises QueryFileError."""
    command = ['git', 'show', '--end-of-options', place]
    shown = subprocess.run(command, capture_output=True, check=False)
    if shown.returncode:
        raise QueryFileError(
            f'WITH is no file, and git does not know {place}: {shown.stderr.decode().strip()}'
            ' (where the file had another path, write WITH=REVISION:PATH)'
        )
    return shown.stdout


def load_text(name: str, place: str, text: bytes) -> Query:
    """Load a text as load_query loads a report's file; messages name the place of the text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'{name}.sql')
        path.write_bytes(text)
        try:
            return replace(load_query(path), path=Path(place))
        except QueryFileError as ex:
            raise QueryFileError(str(ex).replace(str(path), place)) from ex


def connect(settings: Settings) -> Connection:
    """Connect as the service does; each transaction has one snapshot, and can only read."""
    connection = Connection.connect(**connection_parameters(settings))
    connection.set_up(settings)
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


def draw_sets(settings: Settings, versions: Versions, count: int, seed: int) -> list[Values]:
    """Draw sets of values, no two the same: count, or as many as there are."""
    text = COMMENT.sub('', '\n'.join(query.sql.decode() for query in versions.values()))
    intervals = [f'{first or other} {unit}' for first, unit, other in INTERVAL.findall(text)]
    values = {'intervals': intervals, 'seed': seed, 'set_count': count}
    patient = structs.replace(settings, statement_timeout_s=DRAW_TIMEOUT_S)
    with connect(patient) as connection, tqdm(desc='values', disable=None, leave=False):
        [body] = connection.execute(*bound(load_query(PARAMETERS), values)).fetchone()
    names = [each.name for each in versions['old'].parameters]
    rows = json.loads(body)
    if not rows[0].keys() >= set(names):
        raise QueryFileError(f'{PARAMETERS}: must draw a value for each of {names}')
    sets = dict.fromkeys(tuple((name, row[name]) for name in names) for row in rows)
    return [dict(each) for each in sets][:count]


def psql(query: Query, values: Values) -> str:
    """Return a shell command that runs a version with a set of values."""
    show = f'git show {query.path} |\n' if ':' in str(query.path) else ''
    parts = ['PGTZ=UTC psql "$DATABASE_URL" -XAt']
    for name, value in values.items():
        written = 'NULL' if value is None else value if value.isdigit() else f'"\'{value}\'"'
        parts.append(f'-v {name}={written}')
    parts.append(f'-f {"-" if show else query.path}')
    return show + ' \\\n  '.join(parts)


def report(versions: Versions, outcome: Outcome, plans: Plans, notes: list[str]) -> list[str]:
    """Return the lines to print: the verdict, where it comes from, a difference, and the cost."""
    differing = outcome.differing
    told = 'differ' if differing else 'equal'
    answers = f'{len(differing or outcome.equal)} of {sum(map(len, outcome))} answers {told}'
    lines = ['; '.join([answers, *verdict(plans)]), '']
    lines += [f'{label}: {query.path}' for label, query in versions.items()] + notes
    if outcome.failed:
        lines.append(f'with {len(outcome.failed)} sets, both versions fail: {outcome.failed[0]}')
    if differing:
        place, *values = difference(*differing[0][1:])
        lines += ['', f'The first difference: {place}']
        lines += [f'  {label}: {value}' for label, value in zip(versions, values, strict=True)]
        if 'DATABASE_IS_THROWAWAY' in os.environ:
            lines += ['', THROWAWAY]
    lines = [textwrap.fill(line, 80, subsequent_indent='    ') for line in lines]
    for label, query in versions.items() if differing else ():
        lines.append(f'\n# the {label} answer\n{psql(query, differing[0][0])}')
    return [*lines, *table(plans), *changed_nodes(plans)]


def run(arguments: argparse.Namespace) -> int:
    """Compare two versions and print the report; returns the exit status."""
    settings = load_settings()
    versions = load_versions(arguments.function, arguments.other, settings)
    sets = draw_sets(settings, versions, arguments.count, arguments.seed)
    with connect(settings) as connection:
        place = describe(connection.info.get_parameters())
        for query in versions.values():
            check.run(connection, query, place)
        outcome = compare(connection, versions, sets)
        plans = measure(connection, versions, sets[::COST_EVERY])
        notes = [
            *describe_server(connection, plans),
            f'{len(sets)} sets of values, seed {arguments.seed}; the cost is measured with'
            f' {len(sets[::COST_EVERY])} of them',
        ]
    if versions['old'].sql == versions['new'].sql:
        notes.append('old and new are the same query')
    first, *rest = report(versions, outcome, plans, notes)
    if arguments.format == 'markdown':
        first, rest = f'**{first}**', ['', '```text', *rest[1:], '```']
    print(first, *rest, sep='\n')
    return 1 if outcome.differing else 2 if outcome.failed else 0


def main() -> int:
    """Run the command; returns its exit status, 2 where nothing could be compared."""
    parser = argparse.ArgumentParser(prog='python -m tools.compare', description=__doc__)
    parser.add_argument('function', help='the report, such as top_benefits')
    parser.add_argument('other', help='a git revision of its file, or another file')
    parser.add_argument('--count', type=int, default=200, help='how many sets of values')
    parser.add_argument('--seed', type=int, default=1, help='which sets')
    parser.add_argument('--format', choices=['text', 'markdown'], default='text')
    arguments = parser.parse_args()
    if not arguments.other or arguments.count < 1:
        parser.error('WITH must name a git revision or a file, and COUNT be 1 or more')
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except (ConfigError, OSError, QueryFileError, psycopg.Error) as ex:
        print(f'error: {in_one_line(ex)}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
