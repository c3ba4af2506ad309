"""Programs and free ports of this machine."""

import os
import shutil
import socket
from typing import NoReturn

import pytest


def system_program(name: str, package: str) -> str:
    """Return the path of an installed program; without it, skip the test, or fail it in CI."""
    # Debian installs servers in these folders, which are not in the PATH of ordinary users
    path = os.pathsep.join([os.environ.get('PATH', os.defpath), '/usr/local/sbin', '/usr/sbin'])
    return shutil.which(name, path=path) or missing(
        f'{name} is not installed (Debian: apt install {package})'
    )


def missing(message: str) -> NoReturn:
    """Skip the test because the machine lacks something; in CI, fail it."""
    if os.environ.get('CI'):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def is_listening(port: int) -> bool:
    """Return whether a local port accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0
