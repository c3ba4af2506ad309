"""Wait for what happens sooner or later."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar('T')

# for whatever has to happen sooner or later: many times what a loaded machine needs
DEADLINE_S = 60


def until(deadline_s: float = DEADLINE_S) -> Iterator[None]:
    """Yield every few milliseconds until a deadline; for loops that wait for something."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def wait_for(is_so: Callable[[], T]) -> T:
    """Wait until something is so; returns it."""
    for _ in until():
        if found := is_so():
            return found
    raise AssertionError('waited for too long')
