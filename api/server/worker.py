"""A gunicorn worker that serves HTTP with waitress."""

import os
import select
import time

from gunicorn.workers.base import Worker
from waitress import wasyncore

from api.server.http_server import BalancedSocket, Channel, connection_counts, create_servers
from api.server.threads import LOOP_TIMEOUT_S, LeaderFollowers

# seconds between looks at the threads, unless a signal comes
INTERVAL_S = 0.25
DRAIN_INTERVAL_S = 0.05
# seconds in which a client may send one more request on its connection when the worker ends
GRACE_S = 1.0
# threads beyond those of requests that run or wait, so that /live is answered at once
SPARE_THREADS = 4


class WaitressWorker(Worker):
    """One process of the service."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        settings = self.app.settings
        connections = settings.pool_size + settings.slow_reports_at_once
        limit = connections + settings.pool_max_waiting + SPARE_THREADS
        self._threads = LeaderFollowers(limit, at_once=settings.pool_size + 1)
        sockets = [BalancedSocket(fileno=listener.sock.detach()) for listener in self.sockets]
        for each in sockets:
            each.place = self.age % len(connection_counts)
            each.count = lambda: len(self._threads.map) if self.alive else 0
        self._servers = create_servers(self.wsgi, sockets, self._threads, settings.client_timeout_s)
        while self.alive and os.getppid() == self.ppid:
            self._threads.promote()
            if time.monotonic() - self._threads.looked_at < LOOP_TIMEOUT_S + INTERVAL_S:
                self.notify()  # if the loop is stuck, gunicorn ends the worker
            if select.select([self.PIPE[0]], [], [], INTERVAL_S)[0]:
                os.read(self.PIPE[0], 512)  # gunicorn writes to this pipe at every signal
        self._drain()

    def _drain(self) -> None:
        """Accept no more connections, and wait until all requests are answered."""
        self._threads.is_stopping = True
        self._servers[0].trigger.pull_trigger(self._stop_listening)
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while any(server.accepting for server in self._servers) or self._has_clients():
            if time.monotonic() > deadline:
                self.log.warning('worker %s ends with answers in progress', self.pid)
                break
            self._threads.promote()
            self.notify()
            time.sleep(DRAIN_INTERVAL_S)

    def _stop_listening(self) -> None:
        """Accept all clients that have connected, and close the listening sockets; in the loop."""
        for server in self._servers:
            known = -1
            while known < (known := len(self._threads.map)):
                server.handle_accept()
            wasyncore.dispatcher.close(server)

    def _has_clients(self) -> bool:
        """Tell whether a client waits for an answer, or may be about to send a request."""
        since = time.time() - GRACE_S
        return any(
            channel.requests or channel.total_outbufs_len or channel.last_activity > since
            for channel in list(self._threads.map.values())
            if isinstance(channel, Channel)
        )
