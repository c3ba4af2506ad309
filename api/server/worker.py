"""A gunicorn worker that serves HTTP with waitress."""

import gc
import time
from contextlib import suppress
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import SHUT_RD, socket
from gunicorn.workers.ggevent import GeventWorker

from api.server.http_server import Channel, create_http_server

# seconds for which a worker leaves a connection to those that have fewer; then it accepts it
PAUSE_S = 0.001
# a difference of connections for which it does not pause
TOLERANCE = 2
# the count of a worker that accepts no connections; more than any number of connections
NONE = 2**30
# each worker's number of connections, in shared memory, by its age modulo the length
counts = RawArray('i', [NONE] * 256)


class WaitressWorker(GeventWorker):
    """gunicorn's worker for gevent, with waitress instead of gunicorn's HTTP parser."""

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        # collect less often, and never what exists now: saves 5 to 10 % of CPU time (latency 1 ms)
        gc.freeze()
        gc.set_threshold(10_000)
        self.server_class = partial(Listener, self)
        self.clients = Pool(self.worker_connections)
        self.channels: dict[int, Channel] = {}
        super().run()

    def notify(self) -> None:
        """Report that the worker runs, and close idle connections (gunicorn: every second)."""
        super().notify()
        # while stopping, wait a second for a request that a client may be sending
        oldest = time.time() - (self.app.settings.client_timeout_s if self.alive else 1)
        for each in self.channels.values():
            if not (each.requests or each.total_outbufs_len) and each.last_activity < oldest:
                with suppress(OSError):  # the client has disconnected
                    # ends the wait for a request; Linux still delivers what has arrived
                    each.socket.shutdown(SHUT_RD)

    def release_slot(self) -> None:
        """Remove the count of a worker that has ended (called in the parent process)."""
        counts[self.age % len(counts)] = NONE


class Listener(StreamServer):
    """Accepts the connections of a listening socket, and balances them between the workers."""

    def __init__(self, worker: WaitressWorker, listener: socket, **_: Any) -> None:
        self._worker = worker
        self._slot = worker.age % len(counts)
        super().__init__(listener, spawn=worker.clients)
        self._http_server = create_http_server(worker, listener)
        counts[self._slot] = 0

    def do_read(self) -> tuple[socket, Any] | None:
        """Accept a connection, or pause if another worker has fewer (called by gevent)."""
        if counts[self._slot] > min(counts[:]) + TOLERANCE:
            self.stop_accepting()
            gevent.spawn_later(PAUSE_S, self._resume)
            return None
        return super().do_read()

    def _resume(self) -> None:
        """Accept the connection if no other worker has, and continue."""
        if self.started:
            self.start_accepting()
            with suppress(OSError):  # no file descriptor is left: wait for another connection
                if not self.full() and (accepted := super().do_read()):
                    self.do_handle(*accepted)

    def do_handle(self, *accepted: Any) -> None:
        """Start to serve a connection (called by gevent)."""
        counts[self._slot] += 1
        super().do_handle(*accepted)

    def handle(self, client: socket, address: Any) -> None:
        """Serve a connection (called by gevent in a greenlet of its own)."""
        try:
            server = self._http_server
            address = server.fix_addr(address)
            Channel(server, client, address, server.adj, map=self._worker.channels).serve()
        finally:
            counts[self._slot] -= 1

    def close(self) -> None:
        """Accept the backlog, since there may be no other worker, and stop (called by gunicorn)."""
        counts[self._slot] = NONE
        with suppress(OSError):  # no file descriptor is left
            while self.started and not self.full() and (accepted := super().do_read()):
                self.do_handle(*accepted)
        super().close()
