"""Workers that are dead or stuck are replaced."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.support.service import AVAILABLE, ApiProcess, workers
from tests.support.waiting import DEADLINE_S, wait_for

# requests of ptrace, and the flag of waitpid for threads, which Python does not name
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


@pytest.mark.slow
def test_worker_whose_loop_is_stuck_is_replaced(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1', API_WORKER_TIMEOUT_S='5')
    assert api.get(AVAILABLE).status_code == 200
    [stuck] = workers(api)
    with stopped_threads(stuck):
        wait_for(lambda: f'WORKER TIMEOUT (pid:{stuck.pid})' in api.output())
    wait_for(lambda: [worker for worker in workers(api) if worker != stuck])
    assert httpx.get(api.url + AVAILABLE, timeout=DEADLINE_S).status_code == 200


@contextmanager
def stopped_threads(process: psutil.Process) -> Iterator[None]:
    """Stop all threads but the first, as a debugger does, and release them when they end."""
    threads = [thread.id for thread in process.threads() if thread.id != process.pid]
    libc = ctypes.CDLL(None, use_errno=True)
    for thread in threads:
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if libc.ptrace(request, thread, None, None):
                pytest.skip(f'no right to stop a thread: {os.strerror(ctypes.get_errno())}')
        assert os.WIFSTOPPED(os.waitpid(thread, WALL)[1])
    yield
    for thread in threads:
        while os.WIFSTOPPED(os.waitpid(thread, WALL)[1]):
            pass
