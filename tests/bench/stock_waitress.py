"""The application on unmodified waitress: processes that share a socket, four threads each."""

import os
import socket
import sys

import waitress

from api.app import create_app

if __name__ == '__main__':
    port, processes = map(int, sys.argv[1:])
    listener = socket.create_server(('127.0.0.1', port), backlog=1024)
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    waitress.serve(create_app(), sockets=[listener])
