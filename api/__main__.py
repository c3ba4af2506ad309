"""`python -m api` serves the reports as configured."""

import os
import signal

# what is imported below takes a while, and Ctrl-C in it shall not print a traceback
signal.signal(signal.SIGINT, signal.SIG_DFL)
# the first process of a container gets no signal for which it has no handler
signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

# ruff: noqa: E402
import argparse
import secrets
import sys

from api.app import load_reports
from api.config import ConfigError, Settings, load_settings
from api.database.functions import FunctionFileError
from api.http.auth import hash_of
from api.server.check import NotCheckedError
from api.server.check_process import Check
from api.server.process import Signals, keep_standard_descriptors
from api.server.supervisor import serve

TOKEN_BYTES = 32


def main() -> int:
    """Serve until a signal; what is wrong with settings or SQL files ends it with one line."""
    keep_standard_descriptors()
    parser = argparse.ArgumentParser(prog='python -m api', description=main.__doc__)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--check', action='store_true', help='run every SQL file on the database, and exit'
    )
    instead.add_argument(
        '--token', action='store_true', help='make a bearer token and its hash, and exit'
    )
    arguments = parser.parse_args()
    try:
        if arguments.token:
            token = secrets.token_urlsafe(TOKEN_BYTES)
            print(f'token: {token}\ntoken_sha256: {hash_of(token)}')
        else:
            (check if arguments.check else serve)(load_settings())
    except (ConfigError, FunctionFileError, NotCheckedError) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    return 0


def check(settings: Settings) -> None:
    """Run every SQL file on the database, and warn of what should be mended.

    Raises:
        ConfigError: The settings name no database.
        FunctionFileError: A SQL file does not fit its route or the database.
        NotCheckedError: The database cannot be checked now.
    """
    reports = load_reports(settings)
    database = Check(settings, reports.values())
    for report, function in reports.items():
        print(f'{report.path}: {function.path}', flush=True)
    for warning in database.run(Signals()):
        print(f'warning: {warning}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
