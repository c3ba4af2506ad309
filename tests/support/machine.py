"""What the machine has: programs and free ports."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB over an empty folder; yields that."""
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m,mode=1777', 'tmpfs', str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip('no right to mount a file system on this machine')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free on the file system of a folder."""
    with (folder / 'filling').open('wb', buffering=0) as file:
        while os.statvfs(folder).f_bfree:
            file.write(bytes(4096))
