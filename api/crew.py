"""How a worker's threads share waitress's loop: who leads it also answers what it brings.

This is the leader/followers pattern (Schmidt et al., Pattern-Oriented Software Architecture 2): a
request is answered by the thread that received it, so no other thread has to be woken, which
under Python's global interpreter lock costs more than most answers. An answer that takes longer
than PATIENCE_S loses the lead to another thread, so that a slow report holds up nobody; who knows
that it will take longer hands over at once.
"""

import threading
from collections import deque
from collections.abc import Callable

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

PATIENCE_S = 0.01


class Crew:
    """A task dispatcher for waitress, and the threads that run its loop.

    Args:
        threads: How many requests can be answered at once.
    """

    def __init__(self, threads: int) -> None:
        self._seats = threading.Semaphore(threads)
        self._lead = threading.Lock()
        self._leader: int | None = None
        self._waiting: deque[HTTPChannel] = deque()
        self._turns = 0
        self._handed_over = threading.Event()

    def hand_over(self) -> None:
        """Let another thread lead now, since the caller is about to wait."""
        self._handed_over.set()

    def add_task(self, channel: HTTPChannel) -> None:
        """Queue a channel that has received a request (called by waitress)."""
        self._waiting.append(channel)
        if threading.get_ident() != self._leader:  # the leader looks by itself
            channel.server.pull_trigger()

    def run(self, server: BaseWSGIServer, is_over: Callable[[], bool]) -> None:
        """Serve until `is_over`, which is asked every PATIENCE_S.

        Args:
            server: Made with this crew as its dispatcher.
            is_over: Tells whether to end.
        """
        wake = server.pull_trigger
        # a thread that takes the lead later sees what has changed without being told
        server.pull_trigger = lambda: self._lead.locked() and wake()
        is_stuck = True
        while not is_over():
            if is_stuck and not self._lead.locked() and self._seats.acquire(False):
                threading.Thread(target=self._work, args=[server], daemon=True).start()
            turns = self._turns
            was_handed_over = self._handed_over.wait(PATIENCE_S)
            self._handed_over.clear()
            is_stuck = was_handed_over or turns == self._turns

    def _work(self, server: BaseWSGIServer) -> None:
        """Lead, answer, and lead again, until another thread has taken the lead."""
        try:
            while self._lead.acquire(blocking=False):
                self._leader = threading.get_ident()
                try:
                    while not self._waiting:
                        wasyncore.loop(timeout=1, use_poll=True, map=server._map, count=1)
                    channel = self._waiting.popleft()
                    self._turns += 1
                finally:
                    self._leader = None
                    self._lead.release()
                channel.service()
        finally:
            self._seats.release()
