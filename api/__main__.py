"""`python -m api` serves the reports as configured."""

import argparse
import secrets
import sys

import psycopg

from api.app import load_reports
from api.config import ConfigError, Settings, load_settings
from api.database.check import check_database
from api.database.functions import FunctionFileError
from api.http.auth import hash_of
from api.server.supervisor import serve

TOKEN_BYTES = 32


def main() -> int:
    """Serve until a signal; what is wrong with settings or SQL files ends it with one line."""
    parser = argparse.ArgumentParser(prog='python -m api', description=main.__doc__)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--check', action='store_true', help='prepare every SQL file on the database, and exit'
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
    except (ConfigError, FunctionFileError) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    except psycopg.OperationalError:
        print('error: the database cannot be reached', file=sys.stderr)
        return 1
    return 0


def check(settings: Settings) -> None:
    """Prepare every SQL file on the database, and warn of indexes that it should have.

    Raises:
        ConfigError: The settings name no database.
        FunctionFileError: A SQL file does not fit its route or the database.
        psycopg.OperationalError: The database cannot be reached.
    """
    if missing := check_database(settings, load_reports().values()):
        print(
            f'warning: recommended indexes are missing, see db/indexes.sql: {missing}',
            file=sys.stderr,
        )


if __name__ == '__main__':
    sys.exit(main())
