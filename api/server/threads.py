"""The threads of a worker share waitress's loop: the leader/followers pattern.

One thread at a time, the leader, runs the loop and answers the requests that it receives: waking
another thread takes more CPU time than most answers. Before a leader blocks, it hands the loop over
to a follower, so the loop never waits for a database. See Schmidt et al., Pattern-Oriented Software
Architecture, volume 2.

As many threads answer at once as there are connections to the database. Other requests wait in a
queue, from which a thread that has answered takes the next one without waking anybody. A request
that waits for PATIENCE_S gets a thread of its own.
"""

import logging
import threading
from collections import deque
from time import monotonic

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.trigger import trigger

# seconds after which the loop returns if nothing happens, and after which it runs again at the
# latest while requests wait in the queue
LOOP_TIMEOUT_S = 1.0
LOOP_INTERVAL_S = 0.005
PATIENCE_S = 0.1

log = logging.getLogger(__name__)
_current = threading.local()


def hand_over_loop(*, is_idle: bool = False) -> None:
    """Let another thread run the loop; called by a thread that is about to block.

    Args:
        is_idle: Whether the thread waits for something other than the database: then another
            thread may answer instead.
    """
    if threads := getattr(_current, 'threads', None):
        threads.hand_over(is_idle=is_idle)


class LeaderFollowers:
    """A task dispatcher for waitress, and the threads that run waitress's loop.

    Args:
        limit: The maximum number of threads.
        at_once: How many threads answer at once.

    Attributes:
        map: What the loop watches, connections above all, by file descriptor.
        looked_at: When the loop last ran, by time.monotonic().
        is_stopping: Whether the worker ends, so that connections are closed after an answer.
    """

    def __init__(self, limit: int, at_once: int) -> None:
        self.map: dict[int, wasyncore.dispatcher] = {}
        self.looked_at = monotonic()
        self.is_stopping = False
        self._trigger = trigger(self.map)
        self._unused = limit
        self._at_once = at_once
        self._lead = threading.Lock()
        self._answering: set[int] = set()
        self._followers: set[int] = set()
        self._wake_up = threading.Semaphore(0)
        self._is_waiting = False
        self._received: deque[tuple[float, HTTPChannel]] = deque()

    def add_task(self, channel: HTTPChannel) -> None:
        """Queue a connection that has received a request (called by waitress)."""
        self._received.append((monotonic(), channel))
        self.wake_loop()

    def wake_loop(self) -> None:
        """Make the loop look at all connections again."""
        if self._is_waiting:
            self._trigger.pull_trigger()

    def promote(self, *, is_free: bool = False) -> None:
        """Wake or start a thread that leads, if nobody does; also called a few times a second.

        Args:
            is_free: Whether another request may be answered at once; else only one that is late.
        """
        if self._lead.locked() or not (is_free or not self._received or self._is_late()):
            return
        if self._followers:
            self._wake_up.release()
        elif self._unused:
            self._unused -= 1
            threading.Thread(target=self._work, daemon=True).start()

    def hand_over(self, *, is_idle: bool) -> None:
        """Give up the lead, if the caller has it; see hand_over_loop."""
        if _current.leads:
            _current.leads = False
            self._lead.release()
        if is_idle:
            self._answering.discard(threading.get_ident())
        # else the queue has to wait, and the next thread that has answered goes on with it
        self.promote(is_free=len(self._answering) < self._at_once)

    def _is_late(self) -> bool:
        try:
            return self._received[0][0] + PATIENCE_S < monotonic()
        except IndexError:
            return False

    def _has_to_look(self) -> bool:
        return not self._received or self.looked_at + LOOP_INTERVAL_S < monotonic()

    def _work(self) -> None:
        _current.threads, _current.leads = self, False
        me = threading.get_ident()
        while True:
            if not _current.leads and self._has_to_look():
                _current.leads = self._lead.acquire(blocking=False)
                if not (_current.leads or self._received):
                    self._followers.add(me)
                    self._wake_up.acquire()
                    self._followers.discard(me)
                    continue
            while _current.leads and self._has_to_look():
                self._is_waiting = True
                # a request queued just before is_waiting was set has not woken the loop
                timeout_s = 0 if self._received else LOOP_TIMEOUT_S
                wasyncore.loop(timeout_s, use_poll=True, map=self.map, count=1)
                self._is_waiting = False
                self.looked_at = monotonic()
            try:
                _, channel = self._received.popleft()
            except IndexError:  # another thread was faster
                continue
            self._answering.add(me)
            try:
                channel.service()
            except Exception:
                log.exception('the server failed to answer a request')
            self._answering.discard(me)
