"""The SQL files and their parameters.

A file begins with `-- name: file_name(parameter, ...)^`, as aiosql has it, and holds one query.
Each parameter stands in the query once, first in its line or after `select`, with its type:
`:name::type`, or `coalesce(:name::type` if it may be left out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / 'db' / 'functions'

# a value for each parameter of a query, by its name
Values = dict[str, int | str | None]

HEADER = re.compile(r'-- name: (\w+)\(([\w, ]*)\)\^ *\n')
PARAMETER = re.compile(r'\s*(select\s+)?(?P<optional>coalesce\()?:(?P<name>\w+)::(?P<type>\w+)')
# what psql, pgbench and psycopg take for a parameter, also in comments and literals
PLACEHOLDER = re.compile(r'(?<!:):(\w+)|%')
COMMENT = re.compile(r'^ *--.*$', re.MULTILINE)
FIRST_WORD = re.compile(r'^(?!--)\s*\w+', re.MULTILINE)


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
        sql: The query for psycopg, which knows again what is no longer than 4096 characters: so
            comments are empty lines, but for the first line, and one after the first word, since
            pg_stat_statements drops those before it.
        parameters: The parameters, in their order in the query.
    """

    name: str
    path: Path
    sql: str
    parameters: tuple[Parameter, ...]

    def line_at(self, position: str | None) -> str:
        """Return the line in the file of a position that PostgreSQL gives."""
        numbers = {each.name: f'${n}' for n, each in enumerate(self.parameters, start=1)}
        before = (self.sql % numbers)[: int(position or 1) - 1]
        return f' line {before.count(chr(10)) + 1}' if position else ''


def find_query(name: str, folders: Iterable[str]) -> Query:
    """Load the file of a query from the first folder that has it, or else from FOLDER.

    Raises:
        QueryFileError: The file breaks a rule, or has other parameters than that in FOLDER.
    """
    original = load_query(FOLDER / f'{name}.sql')
    for folder in map(Path, folders):
        try:
            is_here = original.path.name in [path.name for path in folder.iterdir()]
        except OSError as ex:
            raise QueryFileError(f'{folder}: {ex.strerror}') from ex
        if is_here:
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
    except (OSError, ValueError) as ex:
        raise QueryFileError(f'{path}: {getattr(ex, "strerror", ex)}') from ex
    header = HEADER.match(text)
    if not header or header[1] != path.stem:
        raise QueryFileError(f'{path} line 1: must be -- name: {path.stem}(parameter, ...)^')
    parameters = []
    for number, line in enumerate(text.splitlines(), start=1):
        found = PARAMETER.match(line)
        if found:
            parameters.append(Parameter(found['name'], found['type'], bool(found['optional'])))
        if other := PLACEHOLDER.search(line, found.end() if found else 0):
            raise QueryFileError(
                f'{path} line {number}: {other[0]} is allowed as a parameter only, first in a line'
                ' or after select: :name::type, or coalesce(:name::type if it may be left out'
            )
    names = header[2].replace(',', ' ').split()
    if sorted(names) != sorted(parameter.name for parameter in parameters):
        raise QueryFileError(f'{path}: each of {names} must stand in the query once')
    first, rest = text.split('\n', 1)
    sql = PLACEHOLDER.sub(r'%(\1)s', f'{first}\n{COMMENT.sub("", rest)}')
    sql = FIRST_WORD.sub(rf'\g<0> /* {path.name} */', sql, count=1)
    return Query(path.stem, path, sql, tuple(parameters))
