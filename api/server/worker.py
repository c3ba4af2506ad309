"""A gunicorn worker that serves HTTP with waitress and gevent."""

import gc
import time

import gevent
from gevent.socket import wait_read
from gunicorn.workers.ggevent import GeventWorker
from waitress import wasyncore
from waitress.server import BaseWSGIServer

from api.server.http_server import create_servers

# seconds between heartbeats
INTERVAL_S = 0.25
# maximum seconds to let workers with fewer connections accept first, and seconds between checks
MAX_DEFERRED_S = 0.01
PAUSE_S = 0.0005
# seconds between checks during shutdown, and while MAX_CONNECTIONS are open
CHECK_INTERVAL_S = 0.05
# seconds that shutdown keeps a connection open after its last activity, since the client may be
# sending a request
LINGER_S = 1.0


def accept(server: BaseWSGIServer) -> bool:
    """Accept a connection if any, up to MAX_CONNECTIONS; return whether there was one."""
    before = len(server.active_channels)
    if server.readable():
        server.handle_accept()
    return len(server.active_channels) > before


class WaitressWorker(GeventWorker):
    """One process of the service."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        # collect garbage less often, and never what exists now: saves 5 to 10 % of the CPU time
        # of a response if the latency of the database is 1 ms
        gc.freeze()
        gc.set_threshold(10_000)
        self._counts = self.app.connection_counts
        self._place = self.age % len(self._counts)
        self._servers = create_servers(self.wsgi, self.sockets, self.app.settings.client_timeout_s)
        accepting = [gevent.spawn(self._accept_connections, server) for server in self._servers]
        while self.alive and all(accepting):  # a greenlet that has ended is false
            self.notify()  # if a greenlet blocks the process, gunicorn ends it
            gevent.sleep(INTERVAL_S)
        gevent.killall(accepting)
        self._drain()

    def _accept_connections(self, server: BaseWSGIServer) -> None:
        """Accept connections. Defer to a worker with fewer, but briefly: it may be stuck."""
        while True:
            wait_read(server.socket.fileno())
            deadline = time.monotonic() + MAX_DEFERRED_S
            while self._another_has_fewer() and time.monotonic() < deadline:
                gevent.sleep(PAUSE_S)
            if not accept(server):  # another worker was faster, or no file descriptor is left
                gevent.sleep(PAUSE_S)
            while not self._another_has_fewer() and accept(server):
                pass
            while not server.readable():  # it has MAX_CONNECTIONS
                gevent.sleep(CHECK_INTERVAL_S)

    def _another_has_fewer(self) -> bool:
        """Publish the number of connections; return whether another worker has clearly fewer."""
        own = 1 + sum(len(server.active_channels) for server in self._servers)
        self._counts[self._place] = own
        return own - own // 8 > min(filter(None, self._counts))  # 0: no worker

    def _drain(self) -> None:
        """Accept the connections in the backlog, and wait until all requests are answered."""
        self._counts[self._place] = 0
        for server in self._servers:
            while accept(server):
                pass
            wasyncore.dispatcher.close(server)
        # gunicorn's time limit counts from SIGTERM
        deadline = time.monotonic() + self.cfg.graceful_timeout - 2 * INTERVAL_S
        while self._has_clients():
            if time.monotonic() > deadline:
                self.log.warning('worker %s ends with responses in progress', self.pid)
                break
            self.notify()
            gevent.sleep(CHECK_INTERVAL_S)

    def _has_clients(self) -> bool:
        """Return whether a client waits for an answer, or may be sending a request."""
        since = time.time() - LINGER_S
        return any(
            channel.requests or channel.total_outbufs_len or channel.last_activity > since
            for server in self._servers
            for channel in server.active_channels.values()
        )
