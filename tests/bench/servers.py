"""The servers that are measured, each a group of processes on a port of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from api.config import load_settings
from tests.support import ROOT, clean_environment, until

BENCH_PYTHON = ROOT / '.venv-bench' / 'bin' / 'python'
CORES = os.cpu_count() or 1
READY_WITHIN_S = 30
STOPPED_WITHIN_S = 10

OURS = 'ours'
FASTAPI = 'fastapi'
OTHER_WSGI = ('granian', 'gunicorn')


def command(name: str, port: int) -> tuple[list[str], str]:
    """Return the command that starts a server, and a path that it answers when it is ready."""
    threads = load_settings({}).pool_size
    workers = ['--workers', str(CORES)]
    if name == OURS:
        return [sys.executable, '-m', 'api'], '/ready'
    if name == FASTAPI:
        uvicorn = [*workers, '--port', str(port), '--loop', 'uvloop', '--http', 'httptools']
        quiet = ['--no-access-log', '--log-level', 'warning']
        app = 'tests.bench.fastapi_app:app'
        return [str(BENCH_PYTHON), '-m', 'uvicorn', *uvicorn, *quiet, app], '/openapi.json'
    options = {
        'granian': [
            *['--interface', 'wsgi', '--port', str(port), '--no-log'],
            *['--blocking-threads', str(threads)],
        ],
        'gunicorn': [
            *['--bind', f'127.0.0.1:{port}', '--log-level', 'warning'],
            *['--worker-class', 'gthread', '--threads', str(threads)],
        ],
    }
    app = 'tests.bench.wsgi:app'
    return [str(BENCH_PYTHON), '-m', name, *workers, *options[name], app], '/ready'


def unused_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Server:
    """A started server.

    Attributes:
        name: One of the names in this module.
        url: Where it listens, without a slash at the end.
        group: The id of its process group.
        log: The file that its output goes to.
    """

    def __init__(self, name: str, url: str, group: int, log: Path) -> None:
        self.name = name
        self.url = url
        self.group = group
        self.log = log


@contextmanager
def running(name: str, database_url: str, **environment: str) -> Iterator[Server]:
    """Run a server, quiet and with the service's default settings, until the block ends.

    Args:
        name: One of the names in this module.
        database_url: Where the reports come from.
        environment: More environment variables.

    Raises:
        RuntimeError: It did not become ready; the message has its output.
    """
    port = unused_port()
    arguments, ready_path = command(name, port)
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
                    'API_LOG_LEVEL': 'warning',
                    'API_STATEMENT_TIMEOUT_S': '600',
                }
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
