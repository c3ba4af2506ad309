"""Waits for conditions, with a deadline."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar('T')

# many times longer than a busy machine needs
DEADLINE_S = 60


def until(deadline_s: float = DEADLINE_S) -> Iterator[None]:
    """Yield every few milliseconds until a deadline; for loops that wait for something."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def wait_for(condition: Callable[[], T]) -> T:
    """Wait until a condition returns a true value; returns that value."""
    for _ in until():
        if found := condition():
            return found
    raise AssertionError('waited for too long')
