"""`python -m api` serves the reports as configured."""

import os
import shutil
import signal
import sys
import tempfile

# where the workers' metrics are added up; prometheus_client looks for it when it is imported
SHARED_MEMORY = '/dev/shm'  # noqa: S108 - mkdtemp makes a folder of our own in it
PARENT = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
METRICS = tempfile.mkdtemp(prefix='membership-benefits-api-', dir=PARENT)
os.environ['PROMETHEUS_MULTIPROC_DIR'] = METRICS
MAIN_PID = os.getpid()


def clean_up() -> None:
    """Remove the metrics; a worker, which is a fork of the main process, leaves them alone."""
    if os.getpid() == MAIN_PID:
        shutil.rmtree(METRICS, ignore_errors=True)


def end_early(*_: object) -> None:
    """End the process at a signal that comes before gunicorn handles signals."""
    clean_up()
    os._exit(0)


# the first process of a container gets no signal for which it has no handler
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, end_early)

# ruff: noqa: E402
import argparse
import secrets

import psycopg

from api.app import load_reports
from api.config import ConfigError, Settings, load_settings
from api.database.connection import in_one_line
from api.database.queries import QueryFileError
from api.http.auth import hash_of
from api.server.check import check_database
from api.server.service import Service

TOKEN_BYTES = 32


def main() -> int:
    """Serve the reports; a wrong setting or SQL file ends the start with one line."""
    parser = argparse.ArgumentParser(prog='python -m api', description=main.__doc__)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--check', action='store_true', help='run every SQL file on the database, and exit'
    )
    instead.add_argument(
        '--token', action='store_true', help='make a bearer token and its hash, and exit'
    )
    arguments = parser.parse_args()
    # gunicorn would take them for its own
    del sys.argv[1:]
    try:
        if arguments.token:
            token = secrets.token_urlsafe(TOKEN_BYTES)
            print(f'token: {token}\ntoken_sha256: {hash_of(token)}')
        elif arguments.check:
            check(load_settings())
        else:
            Service().run()
    except (ConfigError, QueryFileError) as ex:
        print(f'error: {in_one_line(ex)}', file=sys.stderr)
        return 1
    except psycopg.Error as ex:
        print(f'error: the database cannot be checked: {in_one_line(ex)}', file=sys.stderr)
        return 1
    finally:
        clean_up()
    return 0


def check(settings: Settings) -> None:
    """Run every SQL file on the database, and warn of what should be mended.

    Raises:
        ConfigError: The settings name no database.
        QueryFileError: A SQL file does not fit its route or the database.
        psycopg.Error: The database cannot be checked now.
    """
    reports = load_reports(settings)
    warnings = check_database(settings, reports.values())
    for report, query in reports.items():
        print(f'{report.path}: {query.path}', flush=True)
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
