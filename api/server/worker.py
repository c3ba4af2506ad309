"""A gunicorn worker that serves HTTP with waitress."""

import gc
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket
from gunicorn.workers.ggevent import GeventWorker

from api.server.http_server import Channel, create_http_server
from api.server.service import STOPPING

# seconds for which a worker leaves a connection to workers that have fewer; if these hang, it
# accepts one connection in this time
PAUSE_S = 0.001
# a difference of connections for which it does not pause
TOLERANCE = 2


class WaitressWorker(GeventWorker):
    """gunicorn's worker for gevent, with waitress instead of gunicorn's HTTP parser."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        # collect garbage less often, and never what exists now: saves 5 to 10 % of the CPU time
        # of a response if the latency of the database is 1 ms
        gc.freeze()
        gc.set_threshold(10_000)
        self.server_class = partial(Listener, self)
        self.clients = Pool(self.worker_connections)
        super().run()


class Listener(StreamServer):
    """Accepts the connections of a listening socket, and balances them between the workers."""

    def __init__(self, worker: WaitressWorker, listener: socket, **_: Any) -> None:
        super().__init__(listener, spawn=worker.clients)
        self._worker = worker
        self._counts = worker.app.connection_counts
        timeout_s = worker.app.settings.client_timeout_s
        self._http_server = create_http_server(worker.wsgi, listener, timeout_s)

    def do_read(self) -> tuple[socket, Any] | None:
        """Accept a connection, or pause if another worker has fewer (called by gevent)."""
        if self._counts[self._worker.slot] > min(self._counts[:]) + TOLERANCE:
            self.stop_accepting()
            gevent.spawn_later(PAUSE_S, self._resume)
            return None
        return self._accept()

    def _resume(self) -> None:
        """Accept the connection if no other worker has, and continue."""
        if self.started:
            self.start_accepting()
            with suppress(OSError):  # no file descriptor is left: wait for another connection
                if accepted := self._accept():
                    self.do_handle(*accepted)

    def _accept(self) -> tuple[socket, Any] | None:
        if accepted := super().do_read():
            self._counts[self._worker.slot] += 1
        return accepted

    def handle(self, client: socket, address: Any) -> None:
        """Serve a connection (called by gevent in a greenlet of its own)."""
        try:
            Channel(self._http_server, client, address).serve(self._worker)
        finally:
            self._counts[self._worker.slot] -= 1

    def close(self) -> None:
        """Accept the backlog, since there may be no other worker, and stop (called by gunicorn)."""
        self._counts[self._worker.slot] = STOPPING
        while self.started and (accepted := self._accept()):
            self.do_handle(*accepted)
        super().close()
