"""The parent process: keeps the workers running, and ends them. Nothing in it waits for long."""

import ipaddress
import logging
import mmap
import os
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial

from api import VERSION
from api.app import load_reports
from api.config import Settings
from api.database.functions import Function
from api.http.reports import Report
from api.server.check import NotCheckedError, tell, warn
from api.server.check_process import Check
from api.server.http_server import CONNECTION_LIMIT
from api.server.listener import Share, keep_out, listen, url_of
from api.server.process import (
    LONGEST_PAUSE_S,
    Child,
    Signals,
    allow_open_files,
    core_count,
    longer,
    return_memory,
)
from api.server.worker import Worker
from api.telemetry.log import configure_logging
from api.telemetry.metrics import Metrics
from api.telemetry.snapshots import Snapshots

log = logging.getLogger(__name__)

TURN_S = 0.2
# a parent that finds itself held up for so long was stopped, and its workers most likely as well
HELD_UP_S = 1.0
# beyond shutdown_timeout_s, for a worker to say that it leaves answers behind
LAST_WORDS_S = 0.7


def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second one ends it at once.

    Raises:
        ConfigError: A setting is wrong, or the address cannot be had.
        FunctionFileError: A SQL file does not fit its route or the database.
    """
    configure_logging(settings.log_level, settings.log_format)
    signals = Signals()
    allow_open_files(2 * CONNECTION_LIMIT)
    return_memory()
    reports = load_reports(settings)
    check = Check(settings, reports.values())
    try:
        warn(check.run(signals))
    except NotCheckedError as ex:
        if signals.count:
            return
        log.warning('%s', ex)
    with listen(settings) as listener:
        tell(reports)
        Supervisor(settings, reports, listener, signals, check).run()


@dataclass
class Post:
    """The place of a worker: who holds it, and when the next one may."""

    number: int
    child: Child | None = None
    fate: str = ''
    started_at: float = 0.0
    pause_s: float = 0.0
    due_at: float = 0.0


class Supervisor:
    """Starts the workers, replaces any that is dead or silent, and ends them.

    Args:
        settings: The service's settings.
        reports: What is served, and the loaded files.
        listener: The listening socket that the workers share.
        signals: Those that end it.
        check: The check of the database, which may have to be done yet.
    """

    def __init__(
        self,
        settings: Settings,
        reports: dict[Report, Function],
        listener: socket.socket,
        signals: Signals,
        check: Check,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._signals = signals
        self._check = check
        self._pid = os.getpid()
        self._posts = [Post(n) for n in range(1, (settings.workers or core_count()) + 1)]
        # by worker, in memory shared with all of them: when it last gave a sign of life, and how
        # many connections it has
        self._beats = memoryview(mmap.mmap(-1, 8 * len(self._posts))).cast('d')
        self._connections = memoryview(mmap.mmap(-1, 8 * len(self._posts))).cast('q')
        # of the parent and each worker, what it counted
        self._snapshots = Snapshots(1 + len(self._posts))
        self._metrics = Metrics(self._snapshots)
        self._make_worker = partial(Worker, settings, reports)

    def run(self) -> None:
        """Run until a signal."""
        turned_at = time.monotonic()
        try:
            for post in self._posts:
                self._see_to(post, turned_at)
            self._tell_that_it_serves()
            while not self._signals.count:
                last_turned_at, turned_at = turned_at, time.monotonic()
                if turned_at - last_turned_at > HELD_UP_S:
                    self._forgive()
                for post in self._posts:
                    self._see_to(post, turned_at)
                self._metrics.publish()
                self._check.attend()
                self._signals.wait(TURN_S)
        finally:
            self._stop()

    def _tell_that_it_serves(self) -> None:
        figures = {'workers': len(self._posts), 'pool_size': self._settings.pool_size}
        told = {'version': VERSION, **figures}
        log.info('listening on %s', url_of(self._listener), extra=told)
        host = self._listener.getsockname()[0]
        if not self._settings.token_sha256 and not ipaddress.ip_address(host).is_loopback:
            log.warning('whoever reaches this address may read the reports: no token is set')

    def _see_to(self, post: Post, now: float) -> None:
        """End a worker that is silent, or start the next one where one has ended.

        Args:
            post: Its place.
            now: When this turn began, by time.monotonic(): if this process is stopped since, the
                next turn knows, and a worker that was stopped with it is not taken for silent.
        """
        if post.child and post.child.is_alive():
            silent_s = now - self._beats[post.number - 1]
            if silent_s > self._settings.worker_timeout_s and not post.fate:
                post.fate = f'gave no sign of life for {silent_s:.0f} s and was killed'
                post.child.send(signal.SIGKILL)
            return
        if post.child:
            post.fate = post.fate or f'ended with status {post.child.status}'
            self._metrics.worker_ended(post.number)
            self._plan(post)
        if time.monotonic() >= post.due_at:
            self._start(post)

    def _plan(self, post: Post) -> None:
        """Decide when the next worker starts: at once, unless the last one did not live long."""
        has_lived = time.monotonic() - post.started_at > LONGEST_PAUSE_S
        post.pause_s = 0.0 if has_lived else longer(post.pause_s)
        post.due_at = time.monotonic() + post.pause_s
        log.error('worker %s %s; the next starts in %g s', post.number, post.fate, post.pause_s)
        post.child, post.fate = None, ''

    def _start(self, post: Post) -> None:
        post.started_at = self._beats[post.number - 1] = time.monotonic()
        try:
            post.child = Child(partial(self._work, post.number))
        except OSError as ex:
            post.fate = f'cannot start: {ex.strerror}'
            self._plan(post)

    def _work(self, number: int) -> int:
        """Be a worker (the only thing here that happens in another process)."""

        def beat() -> bool:
            """Give a sign of life, and tell whether the parent gives one."""
            self._beats[number - 1] = time.monotonic()
            return os.getppid() == self._pid

        share = Share(self._listener, self._connections, self._beats, number - 1)
        self._make_worker(share, Metrics(self._snapshots, number), number).run(beat)
        return 0

    def _forgive(self) -> None:
        """Take nobody for silent who could not speak, as in a container that was paused."""
        for post in self._posts:
            self._beats[post.number - 1] = time.monotonic()

    def _stop(self) -> None:
        """End all workers; a second signal, or shutdown_timeout_s, kills those that are left."""
        log.info('stopping')
        self._check.stop()
        # the last worker to close the socket answers whoever came until now
        keep_out(self._listener)
        self._listener.close()
        deadline = time.monotonic() + self._settings.shutdown_timeout_s + LAST_WORDS_S
        children = [post.child for post in self._posts if post.child]
        for child in children:
            child.send(signal.SIGTERM)
        while any(child.is_alive() for child in children):
            if self._signals.count > 1 or time.monotonic() > deadline:
                break
            self._signals.wait(TURN_S)
        for child in children:
            child.send(signal.SIGKILL)
        log.info('stopped')
