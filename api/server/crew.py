"""The threads of a worker: one at a time leads waitress's loop, and answers what it brings.

This is the leader/followers pattern (Schmidt et al., Pattern-Oriented Software Architecture 2).
A request is answered by the thread that received it, so no other thread has to be woken, which
under Python's global interpreter lock costs more than most answers. What happens, in its order:

1. The leader runs the loop until it has received a request.
2. It gives up the lead and answers the request. Nobody leads meanwhile: most answers take less
   time than it would take another thread to begin.
3. It takes the lead again, unless another thread has it by then; then it ends.

Whoever watches the crew looks every PATIENCE_S. Where nobody leads and nothing has been received
since the last look, an answer takes longer than that, and a new thread takes the lead. A thread
that knows that it will wait makes way, which makes the look happen at once.

A request that waits for the database keeps its thread, so there are as many as may wait. Measured,
that is 84 KiB each; to give it up, an answer would have to be begun anew when its turn comes, and
identical requests could not wait for one. Where the system has no more threads, the others go on.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from api.server.channel import Channel

PATIENCE_S = 0.01
LOOP_TIMEOUT_S = 1.0
# those who have just asked wait this long at most until they are seen, whoever else is answered
LOOK_INTERVAL_S = 0.005

log = logging.getLogger(__name__)


class Crew:
    """A task dispatcher for waitress, and the threads that run its loop.

    Args:
        threads: How many requests can be answered at once.
    """

    def __init__(self, threads: int) -> None:
        self._seats = threading.Semaphore(threads)
        self._lead = threading.Lock()
        self._leader: int | None = None
        self._received: deque[Channel] = deque()
        self._turns = 0
        self._looked_at = 0.0
        self._made_way = threading.Event()
        self._is_stuck = True

    def add_task(self, channel: Channel) -> None:
        """Queue a channel that has received a request (called by waitress)."""
        self._received.append(channel)
        if threading.get_ident() != self._leader:  # the leader looks by itself
            channel.server.wake()

    def is_led(self) -> bool:
        """Tell whether a thread runs the loop now."""
        return self._lead.locked()

    def make_way(self) -> None:
        """Let another thread lead now, since the caller is about to wait."""
        self._made_way.set()

    def watch(self, run_loop: Callable[[float], None]) -> None:
        """Put a new thread in the lead if it is needed, and wait up to PATIENCE_S.

        Args:
            run_loop: Runs the server's loop once, waiting for some seconds at most.
        """
        if self._is_stuck and not self.is_led() and self._seats.acquire(blocking=False):
            try:
                threading.Thread(target=self._work, args=[run_loop], daemon=True).start()
            except RuntimeError as ex:  # the system has no more; those that there are go on
                self._seats.release()
                log.warning('cannot start a thread: %s', ex)
        turns = self._turns
        has_made_way = self._made_way.wait(PATIENCE_S)
        self._made_way.clear()
        self._is_stuck = has_made_way or turns == self._turns

    def _work(self, run_loop: Callable[[float], None]) -> None:
        """Lead, answer, and lead again, until another thread has taken the lead."""
        try:
            while self._lead.acquire(blocking=False):
                self._leader = threading.get_ident()
                try:
                    while not self._received:
                        run_loop(LOOP_TIMEOUT_S)
                        self._looked_at = monotonic()
                    if monotonic() - self._looked_at > LOOK_INTERVAL_S:
                        run_loop(0)
                        self._looked_at = monotonic()
                    channel = self._received.popleft()
                    self._turns += 1
                finally:
                    self._leader = None
                    self._lead.release()
                channel.service()
        finally:
            self._seats.release()
