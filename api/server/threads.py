"""The threads of a worker share waitress's loop: the leader/followers pattern.

One thread at a time, the leader, runs the loop and answers the requests that it receives. A request
is answered by the thread that received it, because waking another thread costs more CPU time than
most answers. A leader that is about to block hands the loop over to a follower first, so the loop
never waits for a database. See Schmidt et al., Pattern-Oriented Software Architecture, volume 2.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from waitress.channel import HTTPChannel

log = logging.getLogger(__name__)

# seconds after which a loop without any event returns
LOOP_TIMEOUT_S = 1.0
_current = threading.local()


def hand_over_loop() -> None:
    """Let another thread run the loop. A thread calls this when it is about to block."""
    leading: LeaderFollowers | None = getattr(_current, 'leading', None)
    if leading:
        leading.promote_follower()


class LeaderFollowers:
    """A task dispatcher for waitress, and the threads that run waitress's loop.

    Args:
        run_loop: Runs the loop once; waits for an event for at most the given seconds.
        wake_loop: Makes a loop that waits for an event return.
        limit: The maximum number of threads.

    Attributes:
        turns: How often the loop has run. A worker whose loop does not run is stuck.
    """

    def __init__(
        self, run_loop: Callable[[float], None], wake_loop: Callable[[], None], limit: int
    ) -> None:
        self.turns = 0
        self._run_loop = run_loop
        self._wake_loop = wake_loop
        self._limit = limit
        self._threads = 0
        self._followers: set[int] = set()
        self._lead = threading.Lock()
        self._is_waiting = False
        self._received: deque[HTTPChannel] = deque()

    def add_task(self, channel: HTTPChannel) -> None:
        """Queue a connection that has received a request (called by waitress)."""
        self._received.append(channel)
        self.wake_loop()

    def wake_loop(self) -> None:
        """Make the leader look at the connections again."""
        if self._is_waiting and getattr(_current, 'leading', None) is not self:
            self._wake_loop()

    def start(self) -> None:
        """Start the first thread."""
        self._start_thread()

    def promote_follower(self) -> None:
        """Give up the lead. The caller is the leader."""
        _current.leading = None
        if not self._followers:
            self._start_thread()
        self._lead.release()

    def _start_thread(self) -> None:
        if self._threads == self._limit:
            return  # the next thread that has answered leads
        self._threads += 1
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError as ex:
            self._threads -= 1
            log.warning('cannot start a thread: %s', ex)

    def _work(self) -> None:
        """Lead and answer in turns, until the process ends."""
        while True:
            if getattr(_current, 'leading', None) is not self:
                self._followers.add(threading.get_ident())
                self._lead.acquire()
                self._followers.discard(threading.get_ident())
                _current.leading = self
            while not self._received:
                self._is_waiting = True
                # a task that was added just before is_waiting was set has woken nobody
                self._run_loop(0 if self._received else LOOP_TIMEOUT_S)
                self._is_waiting = False
                self.turns += 1
            try:
                self._received.popleft().service()
            except Exception:
                log.exception('a request failed in the server')
