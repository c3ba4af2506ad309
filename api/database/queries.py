"""The SQL files and their parameters.

A file holds one query, as aiosql reads it. Its first line names the parameters. Each of them stands
in the query once, first in its line or after `select`, with its type: `:name::type`, or
`coalesce(:name::type` if it may be left out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import aiosql

FOLDER = Path(__file__).parents[2] / 'db' / 'functions'

# a value for each parameter of a query, by its name
Values = dict[str, int | str | None]

PARAMETER = re.compile(r'\s*(select\s+)?(?P<optional>coalesce\()?:(?P<name>\w+)::(?P<type>\w+)')
# what psql and pgbench take for a variable
VARIABLE = re.compile(r'(?<!:):(\w+)')


class QueryFileError(Exception):
    """A SQL file breaks a rule, or the database refuses it; the message names file and line."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a query: its name and PostgreSQL type, and whether it may be left out."""

    name: str
    type: str
    is_optional: bool


@dataclass(frozen=True)
class Query:
    """A query that returns one row: body json, missing text.

    Attributes:
        name: The name of the file without .sql.
        path: The file.
        sql: The query for psycopg. A comment before its first word and after it names the file in
            the server's views; pg_stat_statements of PostgreSQL 18 drops the first one.
        parameters: The parameters, in the order of the query.
        lines: The line in the file of each line of the query.
    """

    name: str
    path: Path
    sql: str
    parameters: tuple[Parameter, ...]
    lines: tuple[int, ...]

    def line_at(self, position: str | None) -> str:
        """Return the line in the file of a position in the query that PostgreSQL gives."""
        if not position:
            return ''
        numbers = {each.name: f'${n}' for n, each in enumerate(self.parameters, start=1)}
        before = (self.sql % numbers)[: int(position) - 1]
        return f' line {self.lines[before.count(chr(10))]}'


def find_query(name: str, folders: Iterable[str | Path]) -> Query:
    """Load the file of a query from the first folder that has it, or else from FOLDER.

    Raises:
        QueryFileError: The file breaks a rule, or has other parameters than that in FOLDER.
    """
    original = load_query(FOLDER / f'{name}.sql')
    for folder in map(Path, folders):
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError as ex:
            raise QueryFileError(f'{folder}: {ex.strerror}') from ex
        if original.path.name in names:
            query = load_query(folder / original.path.name)
            if set(query.parameters) != set(original.parameters):
                raise QueryFileError(f'{query.path}: must have the parameters of {original.path}')
            return query
    return original


def load_query(path: Path) -> Query:
    """Load a SQL file.

    Raises:
        QueryFileError: The file cannot be read, or breaks a rule.
    """
    try:
        text = path.read_text('utf-8-sig')
        queries = aiosql.from_str(text, 'psycopg')
    except (OSError, ValueError, aiosql.SQLLoadException, aiosql.SQLParseException) as ex:
        raise QueryFileError(f'{path}: {getattr(ex, "strerror", None) or ex}') from ex
    if queries.available_queries != [path.stem]:
        found = ', '.join(queries.available_queries) or 'nothing'
        raise QueryFileError(f'{path}: must define {path.stem}, but defines {found}')
    query = getattr(queries, path.stem)
    # aiosql drops comments that fill a line, and empty lines before the query
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if not line.lstrip().startswith('--')
    ]
    while not lines[0][1].strip():
        lines.pop(0)
    parameters = tuple(read_parameters(path, lines))
    found = [parameter.name for parameter in parameters]
    if sorted(found) != sorted(query.parameters or []):
        raise QueryFileError(
            f'{path}: the first line names {query.parameters}, and the query has {found}'
        )
    comment = f'/* {path.name} */'
    sql = re.sub(r'\w+', rf'{comment} \g<0> {comment}', query.sql, count=1)
    return Query(path.stem, path, sql, parameters, tuple(number for number, _ in lines))


def read_parameters(path: Path, lines: list[tuple[int, str]]) -> Iterable[Parameter]:
    """Yield the parameters in the lines of a query; see load_query."""
    for number, line in lines:
        parameter = PARAMETER.match(line)
        if parameter:
            yield Parameter(parameter['name'], parameter['type'], bool(parameter['optional']))
        if variable := VARIABLE.search(line, parameter.end() if parameter else 0):
            name = variable[1]
            raise QueryFileError(
                f'{path} line {number}: :{name} must be the first in its line, as :{name}::type, or'
                f' as coalesce(:{name}::type if it may be left out'
            )
        if '%' in line:
            raise QueryFileError(f'{path} line {number}: the driver allows no percent sign')
