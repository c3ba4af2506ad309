"""Runs a command on the configured database, or on a temporary one with sample data."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.config import ConfigError, load_settings
from tools.embedded import EmbeddedServer, EmbeddedServerError, find_binaries, load


def find_port(host: str, port: int) -> int:
    """Return the port, or one that is free if it is 0.

    Raises:
        ConfigError: The port is in use or not allowed, so the printed requests would fail.
    """
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listener:
            return listener.getsockname()[1]
    except OSError as ex:
        raise ConfigError(f'cannot listen: {ex}; API_PORT=0 takes any free port') from ex


def show_requests(host: str, port: int) -> None:
    """Print a request for each report, and the address of the documentation."""
    base = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
    print(
        f"curl '{base}/venues/top-benefits'\n"
        f"curl '{base}/venues/1/available-benefits?personId=1'\n"
        f"curl '{base}/venues/1/inactivity-periods'\n"
        f'or in a browser: {base}/docs',
        flush=True,
    )


def variables(url: str) -> dict[str, str]:
    """Return the environment variables that name a database.

    The password gets its own variable, because DATABASE_URL becomes an argument of psql, and all
    users of the machine can see the arguments of a command.
    """
    parameters = conninfo_to_dict(url)
    password = {'PGPASSWORD': parameters.pop('password')} if 'password' in parameters else {}
    return {'DATABASE_URL': make_conninfo(**parameters)} | password


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in the foreground, and pass SIGTERM and SIGHUP on to it.

    Returns:
        Its exit status; 128 + the signal's number if a signal ended it.
    """
    # on Ctrl-C, the terminal sends SIGINT to the command too; the command decides when to end
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command, env=environment) as process:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _: process.send_signal(received))
        status = process.wait()
    return 128 - status if status < 0 else status


def main() -> int:
    """Run the command of the arguments; returns its exit status."""
    parser = argparse.ArgumentParser(prog='python -m tools.run', description=__doc__)
    parser.add_argument(
        '--requests', action='store_true', help='print requests to the service that it starts'
    )
    parser.add_argument(
        'command',
        nargs=argparse.REMAINDER,
        help='its environment has DATABASE_URL, PGPASSWORD and API_FUNCTIONS',
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        settings = load_settings()
        environment = os.environ | {'API_FUNCTIONS': ','.join(settings.functions)}
        if arguments.requests:
            port = find_port(settings.host, settings.port)
            environment['API_PORT'] = str(port)
        if settings.database_url:
            environment |= variables(settings.database_url)
            with suppress(EmbeddedServerError):  # psql and pgbench, if the system has none
                environment['PATH'] = f'{os.environ["PATH"]}:{find_binaries()}'
            os.execvpe(arguments.command[0], arguments.command, environment)  # noqa: S606
        print('Starting a temporary PostgreSQL with sample data ...', file=sys.stderr)
        with EmbeddedServer() as server:
            environment['DATABASE_URL'] = server.url()
            environment['PATH'] = f'{server.binaries}:{os.environ["PATH"]}'
            load(server.url(), 'schema.sql', 'sample_data.sql', 'indexes.sql')
            print(server.url(), file=sys.stderr)
            if arguments.requests:
                show_requests(settings.host, port)
            return run(arguments.command, environment)
    except (ConfigError, RuntimeError, OSError, psycopg.Error) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
