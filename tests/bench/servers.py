"""The servers that are measured, each a group of processes on a port of its own."""

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
from tests.bench.results import (
    FASTAPI,
    FASTAPI_QUIET,
    GRANIAN,
    GUNICORN,
    OURS,
    OURS_QUIET,
    OURS_UNCOUNTED,
)
from tests.support import ROOT, clean_environment, connections, free_port, until

BENCH_PYTHON = ROOT / '.venv-bench' / 'bin' / 'python'
CORES = os.cpu_count() or 1
READY_WITHIN_S = 60
STOPPED_WITHIN_S = 10

UVICORN = [
    *['-m', 'uvicorn', '--workers', str(CORES), '--loop', 'uvloop', '--http', 'httptools'],
    'tests.bench.fastapi_app:app',
]
# our application; both write no log of it
OTHER_WSGI = ['--workers', str(CORES), 'tests.bench.wsgi:app']


def command(name: str, port: int) -> tuple[list[str], str]:
    """Return the command that starts a server, and a path that it answers when it is ready."""
    python, threads = str(BENCH_PYTHON), str(load_settings({}).pool_size)
    on_port = ['--port', str(port)]
    return {
        OURS: ([sys.executable, '-m', 'api'], '/ready'),
        OURS_QUIET: ([sys.executable, '-m', 'api'], '/ready'),
        OURS_UNCOUNTED: ([sys.executable, '-m', 'tests.bench.uncounted'], '/ready'),
        FASTAPI: ([python, *UVICORN, *on_port], '/openapi.json'),
        FASTAPI_QUIET: (
            [python, *UVICORN, *on_port, '--no-access-log', '--log-level', 'warning'],
            '/openapi.json',
        ),
        GRANIAN: (
            [
                *[python, '-m', 'granian', '--interface', 'wsgi', '--no-log', *on_port],
                *['--blocking-threads', threads, *OTHER_WSGI],
            ],
            '/ready',
        ),
        GUNICORN: (
            [
                *[python, '-m', 'gunicorn', '--bind', f'127.0.0.1:{port}'],
                *['--log-level', 'warning', '--worker-class', 'gthread'],
                *['--threads', threads, *OTHER_WSGI],
            ],
            '/ready',
        ),
    }[name]


@dataclass(frozen=True)
class Server:
    """A started server.

    Attributes:
        name: What it is called in the results.
        url: Where it listens, without a slash at the end.
        pid: Its first process, the parent of all others.
        log: The file that its output goes to.
    """

    name: str
    url: str
    pid: int
    log: Path

    def processes(self) -> list[psutil.Process]:
        """Return its processes."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def spread(self) -> list[int]:
        """Return how many connections each worker has now, most first."""
        port = int(self.url.rpartition(':')[2])
        counts = [
            sum(connection.laddr.port == port for connection in connections(process))
            for process in self.processes()
        ]
        # the parent has none, and neither have other processes that do not answer
        counts.sort(reverse=True)
        return (counts + [0] * CORES)[: max(CORES, sum(count > 0 for count in counts))]


@contextmanager
def running(name: str, database_url: str, **environment: str) -> Iterator[Server]:
    """Run a server with its default settings, its output in a file, until the block ends.

    Args:
        name: One of the names that `command` knows.
        database_url: Where the reports come from.
        environment: More environment variables.

    Raises:
        RuntimeError: It did not become ready; the message has its output.
    """
    port = free_port()
    arguments, ready_path = command(name, port)
    quiet = {'API_LOG_LEVEL': 'warning'} if name == OURS_QUIET else {}
    with tempfile.TemporaryDirectory(prefix='bench-') as folder:
        # an empty file, so that no developer's config.toml has a say
        settings = Path(folder, 'config.toml')
        settings.touch()
        log = Path(folder, 'log')
        with log.open('wb') as output:
            process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env=clean_environment()
                | {
                    'DATABASE_URL': database_url,
                    'API_CONFIG': str(settings),
                    'API_PORT': str(port),
                }
                | quiet
                | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches this program alone, which then stops the whole group
                start_new_session=True,
            )
        url = f'http://127.0.0.1:{port}'
        try:
            for _ in until(READY_WITHIN_S):
                if answers(url + ready_path):
                    break
                if process.poll() is not None:
                    raise RuntimeError(f'{name} ended at once:\n{log.read_text()}')
            else:
                raise RuntimeError(f'{name} is not ready:\n{log.read_text()}')
            yield Server(name, url, process.pid, log)
        finally:
            stop(process)


def answers(url: str) -> bool:
    """Tell whether a GET is answered with a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def stop(process: subprocess.Popen) -> None:
    """Stop a process that leads a group, and whatever is left of the group."""
    process.send_signal(signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
