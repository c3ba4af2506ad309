"""Installed servers, such as nginx and PgBouncer."""

import subprocess
import tempfile
from pathlib import Path

from tests.support.machine import free_port, is_listening, system_program
from tests.support.waiting import DEADLINE_S, until
from tools.embedded import LAUNCH, give_to_server


class Daemon:
    """An installed server that listens on a local port and has its own folder.

    It runs as the same user as PostgreSQL, so never as root, and ends with this process.

    Attributes:
        folder: The folder of its files; the file `log` has its output.
        port: The port on which it listens.
    """

    def __init__(self, name: str, package: str) -> None:
        self._program = system_program(name, package)
        self._folder = tempfile.TemporaryDirectory(prefix=f'{name}-', dir='/tmp')
        self.folder = Path(self._folder.name)
        give_to_server(self.folder)
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    def start(self, *arguments: str) -> None:
        """Start the server, and wait until it listens."""
        with (self.folder / 'log').open('ab') as log:
            self.process = subprocess.Popen(
                [*LAUNCH, self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for _ in until():
            if is_listening(self.port):
                return
            if self.process.poll() is not None:
                break
        raise AssertionError(f'{self._program} does not listen:\n{self.output()}')

    def output(self) -> str:
        """Return the output so far."""
        return (self.folder / 'log').read_text()

    def stop(self) -> None:
        """Stop the server."""
        if self.process:
            self.process.terminate()
            self.process.wait(DEADLINE_S)

    def __enter__(self) -> 'Daemon':
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()
