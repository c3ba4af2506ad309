"""A listening socket that the process is started with, as systemd's socket activation has it."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.support import DEADLINE_S, ROOT, patient_environment


def start_on(listener: socket.socket, url: str, log: Path) -> subprocess.Popen:
    """Start the service as systemd's socket activation does."""
    hand_over = (
        'import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ["LISTEN_PID"] = str(os.getpid());'
        ' os.execv(sys.executable, [sys.executable, "-m", "api"])'
    )
    with log.open('wb') as output:
        return subprocess.Popen(
            [sys.executable, '-c', hand_over, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            cwd=ROOT,
            env=patient_environment() | {'DATABASE_URL': url, 'LISTEN_FDS': '1'},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def test_socket_that_is_handed_over_keeps_clients_for_the_next_process(
    sample_url: str, tmp_path: Path
) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
        for number in range(2):
            # nobody serves now
            with httpx.Client(base_url=f'http://127.0.0.1:{port}', timeout=DEADLINE_S) as client:
                log = tmp_path / f'log-{number}'
                with ThreadPoolExecutor(1) as others:
                    asking = others.submit(client.get, '/live')
                    service = start_on(listener, sample_url, log)
                    assert asking.result().status_code == 200
            service.terminate()
            assert service.wait(DEADLINE_S) == 0
            assert f'listening on http://127.0.0.1:{port}' in log.read_text()


def test_unix_socket_that_is_handed_over_ends_the_start_with_one_line(
    sample_url: str, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        service = start_on(listener, sample_url, tmp_path / 'log')
        assert service.wait(DEADLINE_S) == 1
    [line] = (tmp_path / 'log').read_text().splitlines()
    assert line == 'error: cannot serve on a Unix socket, only on TCP'
