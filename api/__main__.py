"""`python -m api` serves the reports as configured."""

import argparse
import sys

import psycopg

from api.app import load_reports
from api.config import ConfigError, load_settings
from api.database import Database
from api.functions import FunctionFileError
from api.server import serve


def main() -> int:
    """Serve until a signal; what is wrong with settings or SQL files ends it with one line."""
    parser = argparse.ArgumentParser(prog='python -m api', description=main.__doc__)
    parser.add_argument(
        '--check', action='store_true', help='prepare every SQL file on the database, and exit'
    )
    try:
        if parser.parse_args().check:
            if missing := Database(load_settings()).check(load_reports().values()):
                print(
                    f'warning: recommended indexes are missing, see db/indexes.sql: {missing}',
                    file=sys.stderr,
                )
        else:
            serve(load_settings())
    except (ConfigError, FunctionFileError) as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    except psycopg.OperationalError:
        print('error: the database cannot be reached', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
