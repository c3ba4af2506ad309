"""The throwaway server, and `make run` and `make psql` on top of it."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from db.embedded import EmbeddedServer, EmbeddedServerError, find_binaries
from tests.support import DEADLINE_S, ROOT, clean_environment, until, wait_for


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_servers_do_not_collide_and_leave_nothing_behind(
    server: EmbeddedServer,
) -> None:
    with EmbeddedServer() as other:
        folder, pid = Path(other.base_dir), other.server_pid
        assert other.url() != server.url()
        with psycopg.connect(other.url()) as connection:
            assert connection.execute('show fsync').fetchone() == ('off',)
        assert folder.exists()
    assert not folder.exists()
    assert not is_running(pid)


@pytest.mark.skipif(os.getuid() != 0, reason='only root has to give its rights away')
def test_root_runs_the_server_as_somebody_else(server: EmbeddedServer) -> None:
    assert Path(f'/proc/{server.server_pid}').stat().st_uid != 0


def test_postgres_bin_names_the_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('POSTGRES_BIN', str(tmp_path))
    with pytest.raises(EmbeddedServerError, match='POSTGRES_BIN: there is no initdb in'):
        find_binaries()
    (tmp_path / 'initdb').touch()
    assert find_binaries() == tmp_path


def test_without_any_server_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv('POSTGRES_BIN', raising=False)
    monkeypatch.setattr('db.embedded.find_spec', lambda _: None)
    monkeypatch.setattr('db.embedded.system_folders', list)
    with pytest.raises(EmbeddedServerError, match='apt install postgresql'):
        find_binaries()


class Run:
    """`make run`'s command, with its output."""

    def __init__(self, folder: Path, port: int) -> None:
        self.log = folder / 'run.log'
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    '-m',
                    'db.embedded',
                    '--requests',
                    sys.executable,
                    '-m',
                    'api',
                ],
                cwd=ROOT,
                env=clean_environment() | {'API_PORT': str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_printed(self, pattern: str) -> re.Match:
        for _ in until():
            if found := re.search(pattern, self.log.read_text()):
                return found
            assert self.process.poll() is None, self.log.read_text()
        raise AssertionError(self.log.read_text())


@pytest.fixture
def running(tmp_path: Path, unused_port: int) -> Run:
    """Return a started `make run`."""
    run = Run(tmp_path, unused_port)
    yield run
    with suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait(DEADLINE_S)


def test_run_serves_what_it_prints_and_ctrl_c_ends_all_of_it(running: Run) -> None:
    folder = Path(running.wait_until_printed(r'host=([^&]+)&')[1]).parent
    running.wait_until_printed('listening on')
    requests = re.findall(r"curl '([^']+)'", running.log.read_text())
    assert len(requests) == 3
    for url in requests:
        answer = httpx.get(url, timeout=30)
        assert answer.status_code == 200
        assert len(answer.json()) > 2
    postgres = int(folder.joinpath('data', 'postmaster.pid').read_text().split()[0])
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(DEADLINE_S) == 0
    assert not folder.exists()
    assert not is_running(postgres)


def test_sigterm_ends_all_of_it(running: Run) -> None:
    folder = Path(running.wait_until_printed(r'host=([^&]+)&')[1]).parent
    running.wait_until_printed('listening on')
    running.process.terminate()
    assert running.process.wait(DEADLINE_S) == 0
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems cannot tell a child of its end')
def test_killed_run_leaves_no_server(running: Run) -> None:
    folder = Path(running.wait_until_printed(r'host=([^&]+)&')[1]).parent
    postgres = int(folder.joinpath('data', 'postmaster.pid').read_text().split()[0])
    running.process.kill()
    wait_for(lambda: not is_running(postgres))


def test_configured_database_is_used_as_it_is(sample_url: str) -> None:
    finished = subprocess.run(
        [
            sys.executable,
            '-m',
            'db.embedded',
            'sh',
            '-c',
            'echo "$DATABASE_URL"; exit 7',
        ],
        cwd=ROOT,
        env=clean_environment() | {'DATABASE_URL': sample_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.stdout == f'{sample_url}\n'
    assert finished.returncode == 7
