"""Clients that are idle, slow, or do not read their responses."""

import http.client
import socket
import threading
from contextlib import ExitStack

from tests.support.waiting import DEADLINE_S


def request(path: str) -> bytes:
    """Return a request."""
    return f'GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode()


def ask(client: socket.socket, path: str) -> None:
    """Send a request."""
    client.sendall(request(path))


def read(client: socket.socket) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, answer.read()


class Crowd:
    """Sockets that are connected to the API, until the end of a with statement.

    Args:
        port: The API's port.
    """

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
        """Connect some clients, which can receive little at a time."""
        clients = []
        for _ in range(number):
            client = self._stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(DEADLINE_S)
            client.connect(('127.0.0.1', self._port))
            clients.append(client)
        return clients

    def drip(self, clients: list[socket.socket], path: str) -> None:
        """Make clients send a request by a byte a second."""

        def send() -> None:
            for byte in request(path):
                for client in clients:
                    client.sendall(bytes([byte]))
                if self._is_over.wait(1):
                    return

        thread = threading.Thread(target=send)
        thread.start()
        self._stack.callback(thread.join)
