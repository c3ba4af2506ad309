"""Where the service listens: as gunicorn's arguments say, or on a socket that it is given."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.support.commands import patient_environment
from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S, wait_for


def test_gunicorn_arguments_count_such_as_a_unix_socket(sample_url: str, tmp_path: Path) -> None:
    path = tmp_path / 'socket'
    arguments = {'GUNICORN_CMD_ARGS': f'--bind unix:{path} --workers 1'}
    with subprocess.Popen(
        [sys.executable, '-m', 'api'],
        cwd=ROOT,
        env=patient_environment() | {'DATABASE_URL': sample_url} | arguments,
    ) as service:
        wait_for(path.exists)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, timeout=DEADLINE_S) as client:
            assert client.get('http://localhost/venues/top-benefits').status_code == 200
        service.terminate()
        assert service.wait(DEADLINE_S) == 0


def test_socket_that_systemd_hands_over_keeps_clients_for_the_next_process(
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
            assert f'Listening at: http://127.0.0.1:{port}' in log.read_text()


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
