"""A worker process: answers requests until it is told to end, then finishes what it has begun."""

import logging
import signal
import time
from collections.abc import Callable

from api.app import create_app
from api.config import Settings
from api.database.functions import Function
from api.database.sessions import Sessions
from api.http.reports import Report
from api.server.crew import Crew
from api.server.http_server import HttpServer
from api.server.listener import Share
from api.server.process import SIGNALS
from api.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# threads beyond those that work or wait for the database, so that /live is answered at once
SPARE_THREADS = 4
PUBLISHING_INTERVAL_S = 1.0


class Worker:
    """One process of the service.

    Args:
        settings: The service's settings.
        reports: What is served, and the loaded files.
        share: Its share of the connections that come.
        metrics: What is counted.
        number: Which worker this is, from 1.

    Attributes:
        application: What it serves.
    """

    def __init__(
        self,
        settings: Settings,
        reports: dict[Report, Function],
        share: Share,
        metrics: Metrics,
        number: int,
    ) -> None:
        self._shutdown_timeout_s = settings.shutdown_timeout_s
        self._number = number
        self._told_to_end_at: float | None = None
        self._is_stopping = False
        self._published_at = 0.0
        self._metrics = metrics
        self._sessions = Sessions(settings, metrics, name=str(number))
        self._crew = Crew(settings.pool_size + settings.pool_max_waiting + SPARE_THREADS)
        self.application = create_app(
            settings,
            reports=reports,
            sessions=self._sessions,
            metrics=metrics,
            make_way=self._crew.make_way,
        )
        self._server = HttpServer(self.application, share, self._crew, settings, metrics)

    def run(self, beat: Callable[[], bool]) -> None:
        """Serve until SIGTERM, or until the parent is gone, and as long as answers need then.

        Args:
            beat: Gives a sign of life to the parent, and tells whether that is there.
        """
        self._receive_signals()
        while not self._has_ended():
            self._crew.watch(self._server.run_once)
            self._publish()
            if not beat():  # nobody is left who could end this process
                self._end()
            if self._told_to_end_at is not None and self._server.is_listening:
                self._stop_listening()
        self._sessions.close()
        self._metrics.publish()

    def _receive_signals(self) -> None:
        # to ignore one, even for a moment, would forget that it has come already
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all processes
            signal.signal(number, signal.SIG_IGN)  # the parent decides
        # from here on, those that the parent held back while it started this process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _end(self) -> None:
        """Begin to end; called once or more often."""
        if self._told_to_end_at is None:
            self._told_to_end_at = time.monotonic()

    def _stop_listening(self) -> None:
        """Begin to stop listening; called until that is done."""
        if not self._is_stopping:  # not where the signal is handled, amid other lines
            self._is_stopping = True
            in_progress = self._server.in_progress()
            log.info('worker %s stopping, requests in progress: %s', self._number, in_progress)
        self._server.stop_listening()

    def _has_ended(self) -> bool:
        """Tell whether all that had begun is done, or the time for it is over."""
        if self._told_to_end_at is None:
            return False
        if time.monotonic() - self._told_to_end_at > self._shutdown_timeout_s:
            log.warning('ended with answers in progress')
            return True
        return not self._server.is_listening and not self._server.is_busy()

    def _publish(self) -> None:
        """Tell the other processes how things are here, every PUBLISHING_INTERVAL_S."""
        if time.monotonic() - self._published_at > PUBLISHING_INTERVAL_S:
            self._published_at = time.monotonic()
            self._sessions.publish_figures()
            self._metrics.publish()
