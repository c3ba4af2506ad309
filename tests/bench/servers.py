"""The servers of the measurements; each is a group of processes with its own port."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from api.config import load_settings
from tests.bench.results import FASTAPI, FASTAPI_ALONE, GRANIAN, GTHREAD, OURS, OURS_ALONE, WAITRESS
from tests.support.commands import clean_environment
from tests.support.machine import free_port
from tests.support.project import ROOT
from tests.support.waiting import until

BENCH_PYTHON = ROOT / '.venv-bench' / 'bin' / 'python'
CORES = os.cpu_count() or 1
THREADS = '8'


def command(name: str, port: int) -> list[str]:
    """Return the command that starts a server."""
    ours, bench = [sys.executable, '-m', 'api'], str(BENCH_PYTHON)
    workers = ['--workers', '1' if name in (OURS_ALONE, FASTAPI_ALONE) else str(CORES)]
    uvicorn = [
        *[bench, '-m', 'uvicorn', '--port', str(port), *workers, '--no-access-log'],
        *['--log-level', 'warning', 'tests.bench.fastapi_app:app'],
    ]
    return {
        OURS: ours,
        OURS_ALONE: ours,
        FASTAPI: uvicorn,
        FASTAPI_ALONE: uvicorn,
        GRANIAN: [
            *[bench, '-m', 'granian', '--interface', 'wsgi', '--port', str(port), *workers],
            *['--blocking-threads', THREADS, '--no-log', '--factory', 'api.app:create_app'],
        ],
        GTHREAD: [
            *[bench, '-m', 'gunicorn', '--bind', f'127.0.0.1:{port}', *workers],
            *['--worker-class', 'gthread', '--threads', THREADS],
            *['--log-level', 'warning', 'api.app:create_app()'],
        ],
        WAITRESS: [bench, '-m', 'tests.bench.stock_waitress', str(port), str(CORES)],
    }[name]


@dataclass(frozen=True)
class Server:
    """A running server: its name in the results, its address, and its parent process."""

    name: str
    url: str
    pid: int

    def processes(self) -> list[psutil.Process]:
        """Return its processes."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_s(self) -> float:
        """Return the user and system CPU time of its processes so far, ended ones included."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


@contextmanager
def running(name: str, database_url: str, functions: Path) -> Iterator[Server]:
    """Run a server until the block ends, on a folder of SQL files; RuntimeError if it fails."""
    port = free_port()
    # default settings; only ours writes a log
    environment = clean_environment() | {
        'DATABASE_URL': database_url,
        'API_FUNCTIONS': str(functions),
        'API_PORT': str(port),
        'API_WORKERS': '1' if name == OURS_ALONE else str(CORES),
        'API_LOG_LEVEL': 'info' if name in (OURS, OURS_ALONE) else 'warning',
        # FastAPI reads it too
        'API_POOL_SIZE': str(load_settings({}).pool_size),
    }
    with tempfile.NamedTemporaryFile(prefix='bench-') as output:
        process = subprocess.Popen(
            command(name, port),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C interrupts only this program, which then stops the whole group
            start_new_session=True,
        )
        url = f'http://127.0.0.1:{port}'
        try:
            for _ in until():
                if is_ready(url) or process.poll() is not None:
                    break
            if not is_ready(url):
                raise RuntimeError(f'{name} is not ready:\n{Path(output.name).read_text()}')
            yield Server(name, url, process.pid)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_ready(url: str) -> bool:
    """Return whether a server responds to a report with a 2xx."""
    try:
        with urllib.request.urlopen(f'{url}/venues/1/available-benefits?personId=1', timeout=5):
            return True
    except OSError:
        return False
