"""What the machine has: programs and free ports."""

import os
import shutil
import socket
from typing import NoReturn

import pytest


def system_program(name: str, package: str) -> str:
    """Return a program of the system's; the test is skipped without it, or fails in CI."""
    # where Debian puts what serves, which is not on an ordinary user's path
    path = os.pathsep.join([os.environ.get('PATH', os.defpath), '/usr/local/sbin', '/usr/sbin'])
    return shutil.which(name, path=path) or missing(
        f'no {name} on this machine (Debian: apt install {package})'
    )


def missing(message: str) -> NoReturn:
    """Skip the test since the machine lacks something, which in CI is a failure."""
    if os.environ.get('CI'):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def is_listening(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0
