"""The SQL function files: loaded by aiosql, with what each says of its parameters."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import aiosql

FOLDER = Path(__file__).parent.parent / 'db' / 'functions'

# how the params CTE names a bind, as aiosql hands it to psycopg: cast once, and if it has
# a default, inside coalesce()
BIND = re.compile(r'(?P<default>coalesce\(\s*)?%\((?P<name>\w+)\)s(?:::(?P<type>\w+))?')


class FunctionFileError(Exception):
    """A file does not hold what its name promises; the message names the file."""


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
        sql: The statement as psycopg takes it. A comment tells a DBA who looks at the server's
            statements which file to open. It stands before the first word and after it:
            pg_stat_statements of PostgreSQL 18 leaves out what comes before the statement.
        binds: Its parameters, in the order of the statement.
        lines: The numbers of the statement's lines in the file, where comments stand between.
    """

    name: str
    sql: str
    binds: tuple[Bind, ...]
    lines: tuple[int, ...]

    @property
    def numbered_sql(self) -> str:
        """The statement with $1, $2 and so on for its binds."""
        return self.sql % {bind.name: f'${n}' for n, bind in enumerate(self.binds, start=1)}

    def line_at(self, position: int) -> int:
        """Return the line of the file for a position in numbered_sql, both counted from 1."""
        return self.lines[self.numbered_sql[: position - 1].count('\n')]


def load_functions(names: Iterable[str], folder: Path = FOLDER) -> dict[str, Function]:
    """Load function files.

    Args:
        names: The functions' names; each is its file's name without .sql.
        folder: Where the files are.

    Raises:
        FunctionFileError: A file is missing, or does not define just the function of its
            name with every bind cast exactly once.
    """
    return {name: load_function(folder / f'{name}.sql') for name in names}


def load_function(path: Path) -> Function:
    """Load one function file; see load_functions."""
    try:
        queries = aiosql.from_path(path, 'psycopg')
    except (OSError, aiosql.SQLLoadException, aiosql.SQLParseException) as ex:
        raise FunctionFileError(f'{path.name}: {ex}') from ex
    if queries.available_queries != [path.stem]:
        raise FunctionFileError(
            f'{path.name}: must define {path.stem}, but defines {queries.available_queries}'
        )
    sql = getattr(queries, path.stem).sql
    binds = {}
    for match in BIND.finditer(sql):
        name, type_ = match['name'], match['type']
        if name in binds or not type_:
            raise FunctionFileError(f'{path.name}: :{name} must be used once, with a cast')
        binds[name] = Bind(name, type_, optional=bool(match['default']))
    text = path.read_text().splitlines()
    # aiosql leaves out whole lines of comment, and what is empty before the statement
    lines = [n for n, line in enumerate(text, start=1) if not line.lstrip().startswith('--')]
    while not text[lines[0] - 1].strip():
        lines.pop(0)
    comment = f'/* {path.name} */'
    named_sql = re.sub(r'\w+', rf'{comment} \g<0> {comment}', sql, count=1)
    return Function(path.stem, named_sql, tuple(binds.values()), tuple(lines))
