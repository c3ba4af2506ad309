"""The SQL function files, and what each says of its parameters.

A function is one SELECT in a file, as aiosql has it: the database gets it as a statement.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import aiosql

FOLDER = Path(__file__).parents[2] / 'db' / 'functions'

# a value for each bind of a function, by its name
Values = dict[str, int | str | None]

# a bind and its cast, as aiosql hands them to psycopg
BIND = re.compile(r'%\((?P<name>\w+)\)s(?:::(?P<type>\w+))?')


class FunctionFileError(Exception):
    """A file does not hold what its name promises, or the database not what the file needs."""


@dataclass(frozen=True)
class Bind:
    """A parameter of a function: its name and PostgreSQL type, and whether it can be left out."""

    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Function:
    """A SQL statement with named binds that returns one row: body json, missing text.

    Attributes:
        name: The file's name without .sql.
        path: The file.
        sql: The statement as psycopg takes it, with a comment that tells a DBA which file to open,
            before its first word and after it: pg_stat_statements of PostgreSQL 18 leaves out
            what comes before the statement.
        binds: Its parameters, in the order of the statement.
        lines: The numbers of the statement's lines in the file, where comments stand between.
    """

    name: str
    path: Path
    sql: str
    binds: tuple[Bind, ...]
    lines: tuple[int, ...]

    def line_at(self, position: str | None) -> str:
        """Return the line in the file of a position in the statement that PostgreSQL gives."""
        if not position:
            return ''
        numbers = {bind.name: f'${n}' for n, bind in enumerate(self.binds, start=1)}
        before = (self.sql % numbers)[: int(position) - 1]
        return f' line {self.lines[before.count(chr(10))]}'


def load_function(path: Path) -> Function:
    """Load a function file.

    Raises:
        FunctionFileError: It is missing, or does not define just the function of its name with
            every bind once, cast, and where it can be told whether it may be left out.
    """
    try:
        queries = aiosql.from_path(path, 'psycopg')
    except (OSError, aiosql.SQLLoadException, aiosql.SQLParseException) as ex:
        raise FunctionFileError(f'{path}: {ex}') from ex
    if queries.available_queries != [path.stem]:
        found = ', '.join(queries.available_queries)
        raise FunctionFileError(f'{path}: must define {path.stem}, but defines {found}')
    sql = getattr(queries, path.stem).sql
    text = path.read_text().splitlines()
    # aiosql leaves out whole lines of comment, and what is empty before the statement
    lines = [n for n, line in enumerate(text, start=1) if not line.lstrip().startswith('--')]
    while not text[lines[0] - 1].strip():
        lines.pop(0)
    comment = f'/* {path.name} */'
    named_sql = re.sub(r'\w+', rf'{comment} \g<0> {comment}', sql, count=1)
    return Function(path.stem, path, named_sql, read_binds(path, sql, lines), tuple(lines))


def read_binds(path: Path, sql: str, lines: list[int]) -> tuple[Bind, ...]:
    """Find a statement's binds; see load_function."""
    binds = {}
    for percent in re.finditer('%', sql):
        before = sql[: percent.start()]
        line = lines[before.count('\n')]
        place = f'{path} line {line}'
        bind = BIND.match(sql, percent.start())
        if not bind:
            raise FunctionFileError(f'{place}: a percent sign, which the driver takes for a bind')
        name, type_ = bind['name'], bind['type']
        if name in binds or not type_:
            raise FunctionFileError(f'{place}: :{name} must be used once, with a cast')
        has_default = before.rstrip().endswith('coalesce(')
        since_select = re.split(r'\bselect\b', before.rstrip().removesuffix('coalesce('))[-1]
        if since_select.count('(') != since_select.count(')'):
            raise FunctionFileError(
                f'{place}: :{name} must stand alone in a select list, or first in a coalesce()'
                ' there if it may be left out'
            )
        binds[name] = Bind(name, type_, optional=has_default)
    return tuple(binds.values())
