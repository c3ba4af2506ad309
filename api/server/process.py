"""What a process asks of its system: cores, descriptors, memory, signals, children."""

import atexit
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

# names and numbers of mallopt(3)
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
MMAP_THRESHOLD_BYTES = 256 * 1024
STDERR = 2
# those that end the service
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# between attempts at something that fails
SHORTEST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0


class Signals:
    """Counts the signals that end the service, and wakes who waits; nohup's choice is kept.

    A handler does nothing but count, so that nothing here is ever interrupted half-way.

    Attributes:
        count: How many have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._wakeup, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        # while Python ends, the sockets are closed before it stops telling of children
        atexit.register(signal.set_wakeup_fd, -1)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    def wait(self, timeout_s: float) -> None:
        """Wait until a signal has come or a child has ended since the last call, or for a time."""
        self._wakeup.settimeout(timeout_s)
        with suppress(TimeoutError, BlockingIOError):
            self._wakeup.recv(4096)


class Child:
    """A process forked from this one, which nothing here ever waits for.

    multiprocessing keeps pipes for each, which leak where there is no room for one more process,
    and waits without an end for those that are left when the parent ends.

    Args:
        work: What it does; returns its exit status. The signals that end the service are blocked
            when it begins, so that those that come early wait until it wants them.

    Attributes:
        pid: Its process id.
        status: Its exit status once it has ended, negative for a signal.

    Raises:
        OSError: There is no room for one more process.
    """

    def __init__(self, work: Callable[[], int]) -> None:
        self.status: int | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _become_child(work)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def is_alive(self) -> bool:
        """Tell whether it has not ended yet."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self.status is None:  # so the id is still its own
            os.kill(self.pid, number)


def _become_child(work: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            status = work()
        except Exception:
            log.exception('a process of the service failed')
        logging.shutdown()
    finally:  # whatever it is, it must not go on as a second parent
        os._exit(status)


def longer(pause_s: float) -> float:
    """Return how many seconds to wait after one more failure, from those of the last one or 0."""
    return min(max(2 * pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)


def keep_standard_descriptors() -> None:
    """Let no other file become standard input, output or error where one of them is closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)
    # Python has none where the descriptor was closed, and print() would take the output for it
    sys.stderr = sys.stderr or os.fdopen(STDERR, 'w', closefd=False)


def return_memory() -> None:
    """Make glibc give the memory of answers back when they are gone.

    By itself it raises the size from which it does that to the largest freed so far, up to
    32 MiB, and keeps what is smaller in arenas, one for each thread, that only shrink at their
    ends. Python runs one thread at a time, so one arena is enough.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'mallopt'):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        libc.mallopt(M_ARENA_MAX, 1)


def allow_open_files(wanted: int) -> None:
    """Let this process have as many open files as it may: every client's connection is one.

    Args:
        wanted: How many, where the system sets no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
