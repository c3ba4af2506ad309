"""The listening socket: from gunicorn's arguments, or inherited."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.service import start_service
from tests.support.waiting import DEADLINE_S, wait_for

# what systemd's socket activation does: the socket is file 3, and its process is named
HAND_OVER = (
    'import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ["LISTEN_PID"] = str(os.getpid());'
    ' os.execv(sys.argv[2], sys.argv[2:])'
)


def test_gunicorn_arguments_count_such_as_a_unix_socket(sample_url: str, tmp_path: Path) -> None:
    path = tmp_path / 'socket'
    arguments = {'GUNICORN_CMD_ARGS': f'--bind unix:{path} --workers 1'}
    with start_service({'DATABASE_URL': sample_url} | arguments) as service:
        wait_for(path.exists)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, timeout=DEADLINE_S) as client:
            assert client.get('http://localhost/venues/top-benefits').status_code == 200
        service.terminate()
        assert service.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_socket_that_systemd_hands_over_keeps_clients_for_the_next_process(
    sample_url: str,
) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        url = f'http://127.0.0.1:{listener.getsockname()[1]}'
        for _ in range(2):
            with ThreadPoolExecutor(1) as clients:
                # nobody serves yet
                asking = clients.submit(httpx.get, f'{url}/live', timeout=DEADLINE_S)
                service = start_service(
                    {'DATABASE_URL': sample_url, 'LISTEN_FDS': '1'},
                    launch=[sys.executable, '-c', HAND_OVER, str(listener.fileno())],
                    pass_fds=[listener.fileno()],
                )
                assert asking.result().status_code == 200
            service.terminate()
            assert service.wait(DEADLINE_S) == 0
