"""The parent process: keeps the workers running, and ends them."""

import ipaddress
import logging
import multiprocessing
import signal
import socket
import sys
import time
from multiprocessing.connection import wait
from types import FrameType

import psycopg

from api.app import load_reports
from api.config import Settings
from api.database.check import check_database
from api.database.functions import Function
from api.http.reports import Report
from api.server.http_server import CONNECTION_LIMIT
from api.server.listener import listen
from api.server.process import (
    SIGNALS,
    allow_open_files,
    core_count,
    handle_signals,
    return_memory,
)
from api.server.worker import Worker
from api.telemetry.log import configure_logging
from api.telemetry.metrics import Metrics
from api.telemetry.snapshots import Snapshots

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
# a worker that cannot start shall not use up a core
RESTART_PAUSE_S = 0.1


def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second one ends it at once.

    Raises:
        ConfigError: A setting is wrong, or the address cannot be had.
        FunctionFileError: A SQL file does not fit its route or the database.
    """
    configure_logging(settings.log_level, settings.log_format)
    handle_signals(lambda *_: sys.exit())
    allow_open_files(2 * CONNECTION_LIMIT)
    return_memory()
    reports = load_reports()
    is_checked = check_at_start(settings, reports)
    with listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        log.info('listening on http://%s:%s', f'[{host}]' if ':' in host else host, port)
        if not settings.token_sha256 and not ipaddress.ip_address(host).is_loopback:
            log.warning('whoever reaches this address may read the reports: no token is set')
        Supervisor(settings, reports, listener, is_checked=is_checked).run()


def check_at_start(settings: Settings, reports: dict[Report, Function]) -> bool:
    """Check the database and warn of what it should have; False if there is none to check.

    Raises:
        FunctionFileError: The database lacks what a file needs.
    """
    try:
        missing_indexes = check_database(settings, reports.values())
    except psycopg.OperationalError:
        log.warning('the database cannot be reached yet')
        return False
    if missing_indexes:
        log.warning('recommended indexes are missing, see db/indexes.sql: %s', missing_indexes)
    return True


class Supervisor:
    """Starts the workers, replaces any that dies, and ends them.

    Args:
        settings: The service's settings.
        reports: What is served, and the loaded files.
        listener: The listening socket that the workers share.
        is_checked: Whether the database was there to be checked; else that is still to be done.
    """

    def __init__(
        self,
        settings: Settings,
        reports: dict[Report, Function],
        listener: socket.socket,
        *,
        is_checked: bool,
    ) -> None:
        self._settings = settings
        self._reports = reports
        self._listener = listener
        self._worker_count = settings.workers or core_count()
        self._snapshots = Snapshots(1 + self._worker_count)
        self._metrics = Metrics(self._snapshots)
        self._is_checked = is_checked
        self._fork = multiprocessing.get_context('fork')
        self._signals = 0
        self._workers: dict[int, multiprocessing.Process] = {}

    def run(self) -> None:
        """Run until a signal.

        Raises:
            FunctionFileError: The check found that the database lacks what a file needs.
        """
        handle_signals(self._receive)
        try:
            while not self._signals:
                for number in range(1, 1 + self._worker_count):
                    self._see_to(number)
                self._metrics.publish()
                wait([w.sentinel for w in self._workers.values()], timeout=CHECK_INTERVAL_S)
                if not self._is_checked and not self._signals:
                    self._is_checked = check_at_start(self._settings, self._reports)
        finally:
            self._stop()

    def _see_to(self, number: int) -> None:
        """Start a worker that does not run."""
        worker = self._workers.get(number)
        if worker and worker.is_alive():
            return
        if worker:
            log.error('worker %s ended with status %s', number, worker.exitcode)
            self._metrics.worker_ended(number)
            time.sleep(RESTART_PAUSE_S)
        self._start(number)

    def _start(self, number: int) -> None:
        process = self._fork.Process(target=self._work, args=(number,), name=f'worker-{number}')
        # a signal that comes before the worker has its own handlers waits for them
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process.start()
        self._workers[number] = process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _work(self, number: int) -> None:
        """Be a worker (the only thing here that happens in another process)."""
        metrics = Metrics(self._snapshots, number)
        Worker(self._settings, self._reports, self._listener, metrics, number).run()

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        # the last worker to close the socket answers whoever came until then
        self._listener.close()
        for worker in self._workers.values():
            if self._signals == 1:
                worker.terminate()
            else:
                worker.kill()

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.terminate()
        for worker in self._workers.values():
            worker.join(self._settings.shutdown_timeout_s + 1)
            worker.kill()
            worker.join()
