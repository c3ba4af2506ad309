"""The HTTP server: worker processes on one listening socket, until a signal ends them."""

import ctypes
import ipaddress
import logging
import multiprocessing
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import FrameType

import psycopg
import waitress
from waitress import wasyncore
from waitress.server import BaseWSGIServer

from api.app import create_app, load_reports
from api.channel import Channel
from api.config import ConfigError, Settings
from api.crew import Crew
from api.database import Database
from api.metrics import Metrics, forget_process, share_between_processes
from api.tracing import configure_logging

log = logging.getLogger(__name__)

# no request here needs much; a longer one is refused before it is read
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
BACKLOG = 1024
CONNECTION_LIMIT = 2000
M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD_BYTES = 256 * 1024
CHECK_INTERVAL_S = 1.0
# threads beyond those that work or wait for the database, so that /live is answered at once
SPARE_THREADS = 4
# a client that keeps its connection has this long for one more request when a worker ends; the
# answer tells it to connect anew
LINGER_S = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket, or take the one that we were started with.

    A supervisor can pass a socket as systemd's socket activation does (see sd_listen_fds).

    Raises:
        ConfigError: The address cannot be had.
    """
    if os.environ.get('LISTEN_PID') == str(os.getpid()):
        return socket.socket(fileno=3)
    try:
        family = socket.AF_INET6 if ':' in settings.host else socket.AF_INET
        return socket.create_server(
            (settings.host, settings.port),
            family=family,
            backlog=BACKLOG,
            reuse_port=settings.reuse_port,
        )
    except OSError as ex:
        reason = os.strerror(ex.errno) if (ex.errno or 0) > 0 else ex.strerror
        raise ConfigError(
            f'cannot listen on {settings.host} port {settings.port}: {reason}'
        ) from ex


def worker_count(settings: Settings) -> int:
    """Return how many workers to run: as configured, or one for each core that we may use."""
    if settings.workers:
        return settings.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second one ends it at once.

    Raises:
        ConfigError: A setting is wrong, or the address cannot be had.
        FunctionFileError: A SQL file does not fit its route or the database.
    """
    configure_logging(settings.log_level, settings.log_format)
    handle_signals(lambda *_: sys.exit())
    allow_open_files()
    return_memory()
    with tempfile.TemporaryDirectory(prefix='membership-benefits-metrics-') as folder:
        share_between_processes(folder)
        metrics = Metrics()
        # built before the workers, so that what is wrong ends the start with one line
        database = Database(settings, metrics=metrics)
        create_app(settings, database, metrics)
        is_checked = check_database(database)
        with listen(settings) as listener:
            if listener.family == socket.AF_UNIX:
                raise ConfigError('cannot serve on a Unix socket, only on TCP')
            if hasattr(socket, 'TCP_USER_TIMEOUT'):  # of every connection: none to read an answer
                timeout_ms = settings.client_timeout_s * 1000
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
            supervisor = Supervisor(settings, listener, metrics)
            host, port = listener.getsockname()[:2]
            log.info('listening on http://%s:%s', f'[{host}]' if ':' in host else host, port)
            if not settings.token_sha256 and not ipaddress.ip_address(host).is_loopback:
                log.warning('whoever reaches this address may read the reports: no token is set')
            supervisor.run(None if is_checked else database)


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let a handler decide what the signals that end the service do; nohup's choice is kept."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def return_memory() -> None:
    """Make glibc give the memory of large answers back when they are gone.

    By itself it raises the size from which it does that to the largest freed so far, up to
    32 MiB (M_MMAP_THRESHOLD in mallopt(3)), and keeps the rest in an arena for each thread.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'mallopt'):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def allow_open_files() -> None:
    """Let this process have as many open files as it may: every client's connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTION_LIMIT * 2 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_database(database: Database) -> bool:
    """Prepare every function once; returns False if there is no database to do it on.

    Raises:
        FunctionFileError: The database lacks what a file needs.
    """
    try:
        missing_indexes = database.check(load_reports().values())
    except psycopg.OperationalError:
        log.warning('the database cannot be reached yet')
        return False
    if missing_indexes:
        log.warning('recommended indexes are missing, see db/indexes.sql: %s', missing_indexes)
    return True


class Supervisor:
    """The parent process: keeps the workers running, and ends them."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics: Metrics) -> None:
        self._settings = settings
        self._listener = listener
        self._metrics = metrics
        self._fork = multiprocessing.get_context('fork')
        self._signals = 0
        self._workers: dict[int, multiprocessing.Process] = {}

    def run(self, unchecked: Database | None) -> None:
        """Run the workers until a signal, replacing any that dies.

        Args:
            unchecked: The database, if its check is still to be done.

        Raises:
            FunctionFileError: The check found that the database lacks what a file needs.
        """
        handle_signals(self._receive)
        try:
            while not self._signals:
                for number in range(1, worker_count(self._settings) + 1):
                    worker = self._workers.get(number)
                    if worker and worker.is_alive():
                        continue
                    if worker:
                        log.error('worker %s ended with status %s', number, worker.exitcode)
                        forget_process(worker.pid)
                        self._metrics.restarts.inc()
                        time.sleep(0.1)  # a worker that cannot start shall not use up a core
                    self._start(number)
                wait([w.sentinel for w in self._workers.values()], timeout=CHECK_INTERVAL_S)
                if unchecked and not self._signals and check_database(unchecked):
                    unchecked = None
        finally:
            self._stop()

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        # the last worker to close the socket answers whoever came until then
        self._listener.close()
        for worker in self._workers.values():
            if self._signals == 1:
                worker.terminate()
            else:
                worker.kill()

    def _start(self, number: int) -> None:
        arguments = (self._settings, self._listener, self._metrics, number, os.getpid())
        process = self._fork.Process(target=work, args=arguments, name=f'worker-{number}')
        # a signal that comes before the worker has its own handlers waits for them
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process.start()
        self._workers[number] = process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.terminate()
        for worker in self._workers.values():
            worker.join(self._settings.shutdown_timeout_s + 1)
            worker.kill()
            worker.join()


def work(
    settings: Settings, listener: socket.socket, metrics: Metrics, number: int, parent: int
) -> None:
    """Be a worker: answer requests until SIGTERM, then finish what is in progress."""
    stopping: list[float] = []
    for number_ in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all processes
        signal.signal(number_, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, lambda *_: stopping or stopping.append(time.monotonic()))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    database = Database(settings, worker=number, metrics=metrics)
    crew = Crew(settings.pool_size + settings.pool_max_waiting + SPARE_THREADS)
    server = waitress.create_server(
        create_app(settings, database, metrics, crew.hand_over),
        _dispatcher=crew,
        sockets=[listener],
        ident=None,
        connection_limit=CONNECTION_LIMIT,
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=MAX_BODY_BYTES,
        channel_timeout=settings.client_timeout_s,
        cleanup_interval=min(settings.client_timeout_s, 30),
        # what a client does not read yet goes into a file; the thread is not held up by it
        outbuf_high_watermark=sys.maxsize,
    )
    server.channel_class = Channel
    server.metrics = metrics
    database.open()
    reported = 0.0

    def is_over() -> bool:
        nonlocal reported
        now = time.monotonic()
        if now - reported > CHECK_INTERVAL_S:
            database.report()
            reported = now
        if not stopping:
            if os.getppid() == parent:
                return False
            stopping.append(now)  # nobody is left who could stop us
        if server.accepting:
            server.trigger.pull_trigger(lambda: stop_listening(server))
            return False
        if now - stopping[0] > settings.shutdown_timeout_s:
            log.warning('ended with answers in progress')
            return True
        return not is_busy(server)

    crew.run(server, is_over)
    database.close()


def stop_listening(server: BaseWSGIServer) -> None:
    """Take in who has connected so far, and nobody after that (called in the server's loop)."""
    if server.accepting:
        server.accepting = False
        while select.select([server.socket], [], [], 0)[0]:
            server.handle_accept()
        wasyncore.dispatcher.close(server)


def is_busy(server: BaseWSGIServer) -> bool:
    """Tell whether somebody waits for an answer, or may be about to ask for one."""
    now = time.time()
    return any(
        channel.requests or channel.total_outbufs_len or now - channel.last_activity < LINGER_S
        for channel in list(server.active_channels.values())
    )
