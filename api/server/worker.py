"""A gunicorn worker that serves HTTP with waitress."""

import os
import select
import time

from gunicorn.workers.base import Worker
from waitress import wasyncore

from api.server.http_server import Channel, create_servers
from api.server.threads import LOOP_TIMEOUT_S, LeaderFollowers

# seconds between heartbeats, unless a signal arrives
INTERVAL_S = 0.25
# during shutdown: seconds between checks for clients, and seconds for which a connection stays
# open after its last activity, since the client may be sending a request
DRAIN_INTERVAL_S = 0.05
LINGER_S = 1.0
# threads for requests that need no database, such as /live
SPARE_THREADS = 4


class WaitressWorker(Worker):
    """One process of the service."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        settings = self.app.settings
        connections = settings.pool_size + settings.slow_reports_at_once
        limit = connections + settings.pool_max_waiting + SPARE_THREADS
        self._threads = LeaderFollowers(limit, concurrency=settings.pool_size + 1)
        self._servers = create_servers(
            self.wsgi,
            [listener.sock for listener in self.sockets],
            self._threads,
            settings.client_timeout_s,
            self._has_most_connections,
        )
        while self.alive and os.getppid() == self.ppid:
            self._threads.promote()
            if time.monotonic() - self._threads.last_poll < LOOP_TIMEOUT_S + INTERVAL_S:
                self.notify()  # if the loop is stuck, gunicorn ends the worker
            if select.select([self.PIPE[0]], [], [], INTERVAL_S)[0]:
                os.read(self.PIPE[0], 512)  # gunicorn writes to this pipe at every signal
        self._drain()

    def _has_most_connections(self) -> bool:
        """Share the number of connections, and return whether another worker has fewer."""
        counts = self.app.connection_counts
        # the listening sockets count too, so a worker that serves never has 0
        own = 0 if self._threads.is_stopping else len(self._threads.map)
        counts[self.age % len(counts)] = own
        return own > min(filter(None, counts), default=own)

    def _drain(self) -> None:
        """Stop accepting connections, and wait until all requests are answered."""
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
        """Accept the connections in the backlog, and stop listening (called in the loop)."""
        for server in self._servers:
            server.handle_accept()
            wasyncore.dispatcher.close(server)

    def _has_clients(self) -> bool:
        """Return whether a client waits for an answer, or may be sending a request."""
        since = time.time() - LINGER_S
        return any(
            channel.requests or channel.total_outbufs_len or channel.last_activity > since
            for channel in list(self._threads.map.values())
            if isinstance(channel, Channel)
        )
