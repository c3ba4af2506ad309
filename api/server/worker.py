"""A gunicorn worker that serves HTTP with waitress."""

import os
import select
import time

from gunicorn.workers.base import Worker

from api.server.http_server import HttpServer

# seconds between signs of life; a signal ends the wait at once
INTERVAL_S = 1.0
DRAIN_INTERVAL_S = 0.05
PIPE_BYTES = 512
# threads beyond those of the requests that run or wait, so that /live is answered at once
SPARE_THREADS = 4


class WaitressWorker(Worker):
    """One process of the service.

    gunicorn sets `alive` to False on SIGTERM. The worker then finishes its answers, for as long as
    gunicorn's `graceful_timeout`.

    Attributes:
        counts: How many connections each worker has, in memory that all workers share.
        slot: The index of this worker in counts.
    """

    counts: memoryview
    slot: int

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent process is gone (called by gunicorn)."""
        settings = self.app.settings
        server = HttpServer(
            self.wsgi,
            [listener.sock for listener in self.sockets],
            counts=self.counts,
            slot=self.slot,
            threads=settings.pool_size + settings.pool_max_waiting + SPARE_THREADS,
            client_timeout_s=settings.client_timeout_s,
        )
        server.start()
        turns = -1
        while self.alive and os.getppid() == self.ppid:
            # a worker whose loop is stuck gives no sign of life, and gunicorn replaces it
            if server.threads.turns != turns:
                turns = server.threads.turns
                self.notify()
            if select.select([self.PIPE[0]], [], [], INTERVAL_S)[0]:
                os.read(self.PIPE[0], PIPE_BYTES)  # gunicorn writes to it on every signal
        self._drain(server)

    def _drain(self, server: HttpServer) -> None:
        """Stop to accept connections, and wait until all requests are answered."""
        server.stop_listening()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while server.is_busy():
            if time.monotonic() > deadline:
                self.log.warning('worker %s ends with answers in progress', self.pid)
                break
            self.notify()
            time.sleep(DRAIN_INTERVAL_S)
