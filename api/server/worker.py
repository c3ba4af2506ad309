"""A gunicorn worker that serves HTTP with waitress and gevent."""

import time

import gevent
from gevent.socket import wait_read
from gunicorn.workers.ggevent import GeventWorker
from waitress import wasyncore
from waitress.server import BaseWSGIServer

from api.server.http_server import create_servers

# seconds between heartbeats
INTERVAL_S = 0.25
# connections that a worker accepts before it looks at the others again
BATCH = 3
# seconds for which a worker leaves connections to others, and of each pause meanwhile
MAX_DEFERRED_S = 0.01
PAUSE_S = 0.0005
# during shutdown: seconds between checks for clients, and seconds for which a connection stays
# open after its last activity, since the client may be sending a request
DRAIN_INTERVAL_S = 0.05
LINGER_S = 1.0


class WaitressWorker(GeventWorker):
    """One process of the service."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        self._counts = self.app.connection_counts
        self._place = self.age % len(self._counts)
        self._servers = create_servers(self.wsgi, self.sockets, self.app.settings.client_timeout_s)
        accepting = [gevent.spawn(self._accept_connections, server) for server in self._servers]
        while self.alive:
            self.notify()  # if a greenlet blocks the process, gunicorn ends it
            gevent.sleep(INTERVAL_S)
        gevent.killall(accepting)
        self._drain()

    def _accept_connections(self, server: BaseWSGIServer) -> None:
        """Accept connections, but leave them to a worker that has fewer, if it is not stuck."""
        while True:
            wait_read(server.socket.fileno())
            deadline = time.monotonic() + MAX_DEFERRED_S
            while self._has_most_connections() and time.monotonic() < deadline:
                gevent.sleep(PAUSE_S)
            while not server.readable():  # it has MAX_CONNECTIONS
                gevent.sleep(PAUSE_S)
            for _ in range(BATCH):
                server.handle_accept()

    def _has_most_connections(self) -> bool:
        """Share the number of connections, and return whether another worker has fewer."""
        own = 1 + sum(len(server.active_channels) for server in self._servers)  # 0: no worker
        self._counts[self._place] = own
        return own > min(filter(None, self._counts))

    def _drain(self) -> None:
        """Accept the connections in the backlog, and wait until all requests are answered."""
        self._counts[self._place] = 0
        for server in self._servers:
            server.handle_accept()
            wasyncore.dispatcher.close(server)
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while self._has_clients():
            if time.monotonic() > deadline:
                self.log.warning('worker %s ends with answers in progress', self.pid)
                break
            self.notify()
            gevent.sleep(DRAIN_INTERVAL_S)

    def _has_clients(self) -> bool:
        """Return whether a client waits for an answer, or may be sending a request."""
        since = time.time() - LINGER_S
        return any(
            channel.requests or channel.total_outbufs_len or channel.last_activity > since
            for server in self._servers
            for channel in server.active_channels.values()
        )
