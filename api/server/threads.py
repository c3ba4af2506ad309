"""The threads of a worker share waitress's loop: the leader/followers pattern.

One thread at a time, the leader, runs the loop and answers the requests that it receives: waking
another thread takes more CPU time than most answers. Before a leader blocks, it hands the loop over
to a follower, so the loop never waits for a database. See Schmidt et al., Pattern-Oriented Software
Architecture, volume 2.
"""

import logging
import threading
from collections import deque

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.trigger import trigger

# seconds after which a loop returns that has received nothing
LOOP_TIMEOUT_S = 1.0

log = logging.getLogger(__name__)
_current = threading.local()


def hand_over_loop() -> None:
    """Let another thread run the loop; called by a thread that is about to block."""
    if leading := getattr(_current, 'leading', None):
        leading.promote_follower()


class LeaderFollowers:
    """A task dispatcher for waitress, and the threads that run waitress's loop.

    Args:
        limit: The maximum number of threads.

    Attributes:
        map: What the loop watches, connections above all, by file descriptor.
        turns: How often the loop has run; it runs at least every LOOP_TIMEOUT_S.
    """

    def __init__(self, limit: int) -> None:
        self.map: dict[int, wasyncore.dispatcher] = {}
        self.turns = 0
        self._trigger = trigger(self.map)
        self._unused = limit
        self._followers: set[int] = set()
        self._lead = threading.Lock()
        self._is_waiting = False
        self._received: deque[HTTPChannel] = deque()

    def add_task(self, channel: HTTPChannel) -> None:
        """Queue a connection that has received a request (called by waitress)."""
        self._received.append(channel)
        self.wake_loop()

    def wake_loop(self) -> None:
        """Make the loop look at all connections again."""
        if self._is_waiting:
            self._trigger.pull_trigger()

    def start_thread(self) -> None:
        """Start a thread; beyond the limit, the next thread that is free leads."""
        if self._unused:
            self._unused -= 1
            threading.Thread(target=self._work, daemon=True).start()

    def promote_follower(self) -> None:
        """Give up the lead; only the leader calls this."""
        _current.leading = None
        if not self._followers:
            self.start_thread()
        self._lead.release()

    def _work(self) -> None:
        while True:
            if not getattr(_current, 'leading', None):
                self._followers.add(threading.get_ident())
                self._lead.acquire()
                self._followers.discard(threading.get_ident())
                _current.leading = self
            while not self._received:
                self._is_waiting = True
                # a request queued just before is_waiting was set has not woken the loop
                timeout_s = 0 if self._received else LOOP_TIMEOUT_S
                wasyncore.loop(timeout_s, use_poll=True, map=self.map, count=1)
                self._is_waiting = False
                self.turns += 1
            try:
                self._received.popleft().service()
            except Exception:
                log.exception('the server failed to answer a request')
