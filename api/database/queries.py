"""The SQL files and their parameters.

A file contains one query. Its first line is `-- name: file_name(parameter, ...)^`, as for aiosql.
Each parameter occurs once, as `:name::type`, or as `coalesce(:name::type` if it is optional.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from api import StartError

FOLDER = Path(__file__).parents[2] / 'db' / 'functions'

# values by parameter; sent as text, so that types in Python never affect the plan
Values = dict[str, str | None]

# parameters in comments and literals count too, because psql and pgbench replace them
PARAMETER = re.compile(r'(?P<coalesce>coalesce\()?(?<!:):(?P<name>\w+)(::(?P<type>\w+))?')
# bytes that are not UTF-8 (decoded by surrogateescape), and NUL, which ends a statement in libpq
INVALID = re.compile('[\0\udc80-\udcff]')


class QueryFileError(StartError):
    """A SQL file is invalid, or the database rejects it. The message names the file and line."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a query, with its PostgreSQL type."""

    name: str
    type: str
    is_optional: bool


@dataclass(frozen=True)
class Query:
    """A query that returns one row: body json, missing text.

    Attributes:
        sql: The text of the file with $1, $2 and so on as parameters. The file's name follows the
            first keyword, because pg_stat_statements drops comments before it.
        parameters: The parameters, in the order of their numbers.
    """

    path: Path
    sql: bytes
    parameters: tuple[Parameter, ...]

    def line_at(self, position: str | None) -> str:
        """Return ' line 3' for a position in the statement, or '' if PostgreSQL reports none."""
        if not position:
            return ''
        before = self.sql.decode()[: int(position)]
        return f' line {before.count(chr(10)) + 1}'


def find_query(name: str, folders: Iterable[str]) -> Query:
    """Load a query from the first folder that has its file, or else from FOLDER.

    Raises:
        QueryFileError: The file is invalid, or has other parameters than the file in FOLDER.
    """
    original = load_query(FOLDER / f'{name}.sql')
    for folder in map(Path, folders):
        path = folder / original.path.name
        try:  # iterdir() lists broken links, too: load_query reports them
            is_here = path in folder.iterdir()
        except OSError as ex:
            raise QueryFileError(f'{folder}: {ex.strerror}') from ex
        if is_here:
            query = load_query(path)
            if set(query.parameters) != set(original.parameters):
                raise QueryFileError(f'{path}: must have the parameters of {original.path}')
            return query
    return original


def load_query(path: Path) -> Query:
    """Load a SQL file.

    Raises:
        QueryFileError: The file cannot be read, or is invalid.
    """
    try:
        text = path.read_text('utf-8-sig', 'surrogateescape')
    except OSError as ex:
        raise QueryFileError(f'{path}: {ex.strerror}') from ex
    if invalid := INVALID.search(text):
        line = text[: invalid.start()].count('\n') + 1
        raise QueryFileError(f'{path} line {line}: must be UTF-8 without NUL bytes')
    header = re.match(rf'-- name: {path.stem}\(([\w, ]*)\)\^ *\n', text)
    if not header:
        raise QueryFileError(f'{path} line 1: must be -- name: {path.stem}(parameter, ...)^')
    names = header[1].replace(',', ' ').split()
    parameters: dict[str, Parameter] = {}

    def number(found: re.Match) -> str:
        name, type_, coalesce = found['name'], found['type'], found['coalesce']
        if name not in names or name in parameters or not type_:
            line = text[: found.start('name')].count('\n') + 1
            raise QueryFileError(
                f'{path} line {line}: :{name} is not allowed here. Each parameter of line 1 must'
                ' occur once, as :name::type, or as coalesce(:name::type if it is optional'
            )
        parameters[name] = Parameter(name, type_, is_optional=bool(coalesce))
        return f'{coalesce or ""}${len(parameters)}::{type_}'

    sql = PARAMETER.sub(number, text)
    if missing := set(names) - parameters.keys():
        raise QueryFileError(f'{path}: lacks the parameters {", ".join(sorted(missing))}')
    sql = re.sub(r'(?m)^\w+', rf'\g<0> /* {path.name} */', sql, count=1)
    return Query(path, sql.encode(), tuple(parameters.values()))
