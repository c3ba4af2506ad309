"""A gunicorn worker that serves HTTP with waitress."""

import gc
from functools import partial
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket
from gunicorn.workers.ggevent import GeventWorker

from api.server.http_server import Channel, create_http_server
from api.server.service import NOT_ACCEPTING

# seconds for which a worker leaves a connection to workers that have fewer
DEFER_S = 0.005


class WaitressWorker(GeventWorker):
    """gunicorn's worker for gevent, with waitress instead of gunicorn's HTTP parser."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        # collect garbage less often, and never what exists now: saves 5 to 10 % of the CPU time
        # of a response if the latency of the database is 1 ms
        gc.freeze()
        gc.set_threshold(10_000)
        self.connections = Pool(self.worker_connections)
        self.server_class = partial(Listener, self)
        super().run()

    def has_more_connections(self) -> bool:
        """Publish the number of connections; return whether it is clearly above another's."""
        counts = self.app.connection_counts
        own = len(self.connections)
        counts[self.age % len(counts)] = own if self.alive else NOT_ACCEPTING
        return own - own // 8 > min(counts)


class Listener(StreamServer):
    """Accepts the connections of a listening socket."""

    max_accept = 1
    _has_deferred = False

    def __init__(self, worker: WaitressWorker, listener: socket, **_: Any) -> None:
        super().__init__(listener, spawn=worker.connections)
        self._worker = worker
        timeout_s = worker.app.settings.client_timeout_s
        self._http_server = create_http_server(worker.wsgi, listener, timeout_s)

    def do_read(self) -> tuple[socket, Any] | None:
        """Accept a connection, or leave it to another worker for DEFER_S (called by gevent)."""
        self._has_deferred = self._worker.has_more_connections() and not self._has_deferred
        if self._has_deferred:
            self.stop_accepting()
            gevent.spawn_later(DEFER_S, self._start_accepting_if_started)
            return None
        return super().do_read()

    def handle(self, client: socket, address: Any) -> None:
        """Serve a connection (called by gevent in a greenlet of its own)."""
        Channel(self._http_server, client, address).serve(self._worker)
