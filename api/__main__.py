"""`python -m api` serves the reports as configured."""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
from importlib import import_module

from gevent import monkey

from api import StartError

SHARED_MEMORY = '/dev/shm'  # noqa: S108 - mkdtemp creates a new folder in it


def serve() -> None:
    """Serve the reports until a signal ends the service.

    Raises:
        StartError: A setting or a SQL file is wrong.
    """
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    folder = tempfile.mkdtemp(prefix='membership-benefits-api-', dir=parent)
    # for metrics and heartbeats; must be set before prometheus_client is imported
    os.environ['PROMETHEUS_MULTIPROC_DIR'] = folder
    main_pid = os.getpid()
    # until gunicorn installs its handlers: process 1 of a container ignores signals without one
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: sys.exit())
    # threads are greenlets from here on: while one waits, gevent runs others
    monkey.patch_all()
    try:
        import_module('api.server.service').Service().run()
    finally:
        if os.getpid() == main_pid:  # and not a worker
            shutil.rmtree(folder, ignore_errors=True)


def check() -> None:
    """Run every SQL file on the database, and print warnings.

    Raises:
        StartError: A setting or a SQL file is wrong, or the database cannot be checked now.
    """
    app = import_module('api.app')
    settings = app.load_settings()
    reports = app.load_reports(settings)
    logging.basicConfig(format='warning: %(message)s')
    import_module('api.server.check').check_database(settings, reports.values())
    for report, query in reports.items():
        print(f'{report.path}: {query.path}', flush=True)


def main() -> int:
    """Run the command; an error of the user is one line, and the status 1."""
    parser = argparse.ArgumentParser(prog='python -m api', description='Serve the reports.')
    parser.add_argument(
        '--check', action='store_true', help='run every SQL file on the database, and exit'
    )
    arguments = parser.parse_args()
    del sys.argv[1:]  # gunicorn parses them too
    try:
        if arguments.check:
            check()
        else:
            serve()
    except StartError as ex:
        print(f'error: {" ".join(str(ex).split())}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
