"""The threads of a worker share waitress's loop: the leader/followers pattern.

One thread at a time, the leader, runs the loop. It also answers the requests that it receives,
because waking another thread takes more CPU time than most answers. Before the leader blocks, it
hands the loop over to a follower, so the loop never waits for a database. See Schmidt et al.,
Pattern-Oriented Software Architecture, volume 2; docs/speed.md compares it with waitress's threads.

The number of threads that answer concurrently is that of the database connections, plus one for
requests that need none. Further requests wait in a queue. A thread that has answered takes the next
request from it, without waking another thread. A request that has waited for MAX_QUEUED_S gets a
thread of its own.
"""

import logging
import threading
from collections import deque
from queue import SimpleQueue
from time import monotonic

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.trigger import trigger

# seconds that a poll may block
LOOP_TIMEOUT_S = 1.0
# seconds between two polls, at most, while requests are queued
LOOP_INTERVAL_S = 0.005
# seconds after which a queued request gets an additional thread
MAX_QUEUED_S = 0.1

log = logging.getLogger(__name__)
_current = threading.local()


def hand_over_loop(*, frees_slot: bool = False) -> None:
    """Let another thread run the loop; called by a thread that is about to block.

    Args:
        frees_slot: Whether the waiting thread no longer counts towards the concurrency.
    """
    if threads := getattr(_current, 'threads', None):
        threads.hand_over(frees_slot=frees_slot)


class LeaderFollowers:
    """A task dispatcher for waitress, and the threads that run waitress's loop.

    Args:
        limit: The maximum number of threads.
        concurrency: The maximum number of threads that answer concurrently.

    Attributes:
        map: The sockets that the loop watches, by file descriptor.
        last_poll: When the loop last ran, by time.monotonic().
        is_stopping: Whether the worker is shutting down.
    """

    def __init__(self, limit: int, concurrency: int) -> None:
        self.map: dict[int, wasyncore.dispatcher] = {}
        self.last_poll = monotonic()
        self.is_stopping = False
        self._trigger = trigger(self.map)
        self._unused = threading.Semaphore(limit)
        self._concurrency = concurrency
        self._lead = threading.Lock()
        self._answering: set[int] = set()
        self._followers: set[int] = set()
        self._wake_up: SimpleQueue[None] = SimpleQueue()
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
        """Wake or start a thread if none leads; also called a few times a second.

        Args:
            is_free: Whether another thread may answer. If not, a thread is woken only if no request
                is queued, or if the oldest one has waited for MAX_QUEUED_S.
        """
        if self._lead.locked() or not (is_free or not self._received or self._is_late()):
            return
        if self._followers:
            self._wake_up.put(None)
        elif self._unused.acquire(blocking=False):
            threading.Thread(target=self._work, daemon=True).start()

    def hand_over(self, *, frees_slot: bool) -> None:
        """Give up the lead, if the caller has it; see hand_over_loop."""
        if _current.leads:
            _current.leads = False
            self._lead.release()
        if frees_slot:
            self._answering.discard(threading.get_ident())
        self.promote(is_free=len(self._answering) < self._concurrency)

    def _is_late(self) -> bool:
        try:
            return self._received[0][0] + MAX_QUEUED_S < monotonic()
        except IndexError:
            return False

    def _must_poll(self) -> bool:
        return not self._received or self.last_poll + LOOP_INTERVAL_S < monotonic()

    def _work(self) -> None:
        _current.threads, _current.leads = self, False
        me = threading.get_ident()
        while True:
            if not _current.leads and self._must_poll():
                _current.leads = self._lead.acquire(blocking=False)
                if not (_current.leads or self._received):
                    self._followers.add(me)
                    self._wake_up.get()
                    self._followers.discard(me)
                    continue
            while _current.leads and self._must_poll():
                self._is_waiting = True
                # a request queued from here on wakes the loop; one queued before is seen now
                timeout_s = 0 if self._received else LOOP_TIMEOUT_S
                wasyncore.loop(timeout_s, use_poll=True, map=self.map, count=1)
                self._is_waiting = False
                self.last_poll = monotonic()
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
