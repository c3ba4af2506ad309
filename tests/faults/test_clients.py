"""Clients that connect and do nothing, send slowly or never read: nobody else notices."""

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import psutil
import pytest

from tests.support import (
    DEADLINE_S,
    ApiProcess,
    Rows,
    client_of_each_worker,
    connections,
    metric,
    wait_for,
)

TOP = '/venues/top-benefits'
AVAILABLE = '/venues/1/available-benefits?personId=1'
REQUEST = b'GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n'
MIB = 2**20
CLIENT_TIMEOUT_S = 120
# what a worker opens when it is first needed: connections of the pool, files of metrics
FEW_FILES = 16


class Crowd:
    """Sockets that are connected to the API."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = ExitStack()
        self._is_over = threading.Event()

    def __enter__(self) -> 'Crowd':
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._stack.close()

    def connect(self, number: int) -> list[socket.socket]:
        """Connect some clients, who can take in little at a time."""
        clients = []
        for _ in range(number):
            client = self._stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(DEADLINE_S)
            client.connect(('127.0.0.1', self._port))
            clients.append(client)
        return clients

    def drip(self, clients: list[socket.socket]) -> None:
        """Make clients send a request by a byte a second."""

        def send() -> None:
            for byte in REQUEST % AVAILABLE.encode():
                for client in clients:
                    client.sendall(bytes([byte]))
                if self._is_over.wait(1):
                    return

        thread = threading.Thread(target=send)
        thread.start()
        self._stack.callback(thread.join)


def family(api: ApiProcess) -> list[psutil.Process]:
    parent = psutil.Process(api.process.pid)
    return [parent, *parent.children()]


def memory(api: ApiProcess) -> int:
    """Return how many bytes the API's processes have for themselves."""
    return sum(process.memory_full_info().uss for process in family(api))


def open_files(api: ApiProcess) -> int:
    return sum(process.num_fds() for process in family(api))


def connected(api: ApiProcess) -> int:
    """Return how many clients are connected to the API's workers."""
    return sum(
        connection.laddr.port == api.port
        for process in family(api)
        for connection in connections(process)
    )


def disturb(api: ApiProcess, answered: int) -> None:
    """Crowd the API, whose top-benefits answer was given so many times, and look at others."""
    files_before = open_files(api)
    with Crowd(api.port) as crowd:
        idle = crowd.connect(500)
        crowd.drip(crowd.connect(200))
        for client in crowd.connect(50):
            client.sendall(REQUEST % TOP.encode())
        # all have their answer waiting, who will not read it
        answers = f'http_requests_total{{route="{TOP}",status="200"}}'
        wait_for(lambda: metric(api, answers) == answered + 50)
        assert connected(api) >= 750
        for path in ['/live', AVAILABLE] * 20:  # long before a bad client is given up
            assert httpx.get(api.url + path, timeout=CLIENT_TIMEOUT_S / 4).status_code == 200
        idle[0].sendall(REQUEST % b'/live')
        assert idle[0].recv(1000).startswith(b'HTTP/1.1 200')
    wait_for(lambda: open_files(api) <= files_before + FEW_FILES)


@pytest.mark.slow
def test_crowd_of_bad_clients_disturbs_nobody_and_leaves_nothing(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.many_venues()
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='2',
        # libpq keeps room for the largest answer, for every connection that had it
        API_POOL_SIZE='1',
        API_STATEMENT_TIMEOUT_S='30',
        API_CLIENT_TIMEOUT_S=str(CLIENT_TIMEOUT_S),
        API_UNREAD_LIMIT_MB='2000',
    )
    with client_of_each_worker(api, 2) as clients:
        for client in clients.values():
            answer = client.get(TOP, headers={'Accept-Encoding': 'identity'})
            assert len(answer.content) > 10 * MIB
    found = [memory(api)]
    # the answers nobody read are 1000 MiB; what is kept for 750 connections is kept once, of which
    # most is seen after the second time, and all as soon as two times add nothing
    for number in range(10):
        disturb(api, answered=2 + 50 * number)
        found.append(memory(api))
        if number > 2 and found[-1] - found[-3] < 8 * MIB:
            break
    else:
        raise AssertionError(f'{[round(memory / MIB) for memory in found]} MiB')
    assert found[-1] - found[0] < 128 * MIB


@pytest.mark.slow
def test_client_that_asks_on_without_reading_is_disconnected(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.many_venues()
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='30', API_WORKERS='1')
    size = len(api.get(TOP, headers={'Accept-Encoding': 'identity'}).content)
    with socket.create_connection(('127.0.0.1', api.port), timeout=DEADLINE_S) as client:
        client.sendall(REQUEST % TOP.encode() * 20)
        answered = f'http_requests_total{{route="{TOP}",status="200"}}'
        wait_for(lambda: metric(api, answered) >= 3)
        for _ in range(3):  # others have been answered since, so the next one would have begun
            assert api.get(TOP).status_code == 200
        received = 0
        while chunk := client.recv(MIB):
            received += len(chunk)
    # two are more than is kept; the kernel holds some of it
    assert 2 * size < received < 5 * size


@pytest.mark.slow
def test_clients_that_neither_send_nor_read_are_disconnected(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.many_venues()
    api = start_api(
        DATABASE_URL=database_url, API_CLIENT_TIMEOUT_S='2', API_STATEMENT_TIMEOUT_S='30'
    )
    assert api.get(TOP).status_code == 200
    with Crowd(api.port) as crowd:
        for client in crowd.connect(10):
            client.sendall(REQUEST % TOP.encode())
        [idle] = crowd.connect(1)
        assert idle.recv(1) == b''
        wait_for(lambda: connected(api) <= 1)  # our own client
