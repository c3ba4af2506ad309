"""The SQL files and their parameters.

A file holds one query, and begins with `-- name: file_name(parameter, ...)^`, as aiosql has it.
Each parameter stands in it once: `:name::type`, or `coalesce(:name::type` if it may be left out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from api import StartError

FOLDER = Path(__file__).parents[2] / 'db' / 'functions'

# a value for each parameter of a query, by its name; PostgreSQL reads each from its text, so that
# the statement is the same whatever the values
Values = dict[str, str | None]

# a report has 4,000; psycopg sends so many at once
MAX_CHARACTERS = 50_000

HEADER = re.compile(r'-- name: (\w+)\(([\w, ]*)\)\^ *\n')
# also in comments and literals, as psql and pgbench have it
PARAMETER = re.compile(r'(?P<optional>coalesce\()?(?<!:):(?P<name>\w+)(::(?P<type>\w+))?')
FIRST_WORD = re.compile(r'^\w+', re.MULTILINE)


class QueryFileError(StartError):
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
        sql: What PostgreSQL runs: the file with $1, $2 and so on as its parameters, and with its
            name after the first word, since pg_stat_statements drops the comments before it.
        parameters: The parameters, in the order of their numbers.
    """

    name: str
    path: Path
    sql: bytes
    parameters: tuple[Parameter, ...]

    def line_at(self, position: str | None) -> str:
        """Name the line in the file of a position, if PostgreSQL gives one."""
        before = self.sql.decode()[: int(position or 1) - 1]
        return f' line {before.count(chr(10)) + 1}' if position else ''


def find_query(name: str, folders: Iterable[str]) -> Query:
    """Load the file of a query from the first folder that has it, or else from FOLDER.

    Raises:
        QueryFileError: The file breaks a rule, or has other parameters than that in FOLDER.
    """
    original = load_query(FOLDER / f'{name}.sql')
    for folder in map(Path, folders):
        path = folder / original.path.name
        try:  # a link that leads nowhere is in the list too, and load_query refuses it
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
        QueryFileError: The file cannot be read, or breaks a rule.
    """
    try:
        text = path.read_text('utf-8-sig')
    except OSError as ex:
        raise QueryFileError(f'{path}: {ex.strerror}') from ex
    except UnicodeDecodeError as ex:
        line = ex.object.count(b'\n', 0, ex.start) + 1
        raise QueryFileError(f'{path} line {line}: must be UTF-8') from ex
    if len(text) > MAX_CHARACTERS:
        raise QueryFileError(f'{path}: must have {MAX_CHARACTERS} characters at most')
    if '\0' in text:  # libpq takes it for the end of the query
        line = text.count('\n', 0, text.index('\0')) + 1
        raise QueryFileError(f'{path} line {line}: must not have a NUL byte')
    header = HEADER.match(text)
    if not header or header[1] != path.stem:
        raise QueryFileError(f'{path} line 1: must be -- name: {path.stem}(parameter, ...)^')
    names = header[2].replace(',', ' ').split()
    parameters: dict[str, Parameter] = {}
    sql = text
    for found in PARAMETER.finditer(text):
        name, type_ = found['name'], found['type']
        if name not in names or name in parameters or not type_:
            line = text.count('\n', 0, found.start('name')) + 1
            raise QueryFileError(
                f'{path} line {line}: :{name} is not allowed here. Each parameter of line 1 stands'
                ' once: :name::type, or coalesce(:name::type if it may be left out'
            )
        parameters[name] = Parameter(name, type_, bool(found['optional']))
        sql = sql.replace(f':{name}::', f'${len(parameters)}::')
    if lacking := set(names) - parameters.keys():
        raise QueryFileError(f'{path}: lacks the parameters {", ".join(sorted(lacking))}')
    sql = FIRST_WORD.sub(rf'\g<0> /* {path.name} */', sql, count=1)
    return Query(path.stem, path, sql.encode(), tuple(parameters.values()))
