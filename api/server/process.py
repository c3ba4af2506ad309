"""What a process asks of its system: cores, open files, memory, signals."""

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from types import FrameType

M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD_BYTES = 256 * 1024
# those that end the service
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let a handler decide what the signals that end the service do; nohup's choice is kept."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def return_memory() -> None:
    """Make glibc give the memory of large answers back when they are gone.

    By itself it raises the size from which it does that to the largest freed so far, up to
    32 MiB (M_MMAP_THRESHOLD in mallopt(3)), and keeps the rest in an arena for each thread.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'mallopt'):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


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
