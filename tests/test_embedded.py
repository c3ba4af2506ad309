"""The throwaway server, and `make run` and `make psql` on top of it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.pages import commands
from tests.support.commands import clean_environment, patient_environment
from tests.support.machine import is_listening
from tests.support.postgres import GuardedServer, program
from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S, until, wait_for
from tools.embedded import EmbeddedServer, EmbeddedServerError, find_binaries

SERVE = [sys.executable, '-m', 'tools.embedded', '--requests', sys.executable, '-m', 'api']


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
    monkeypatch.setattr('tools.embedded.find_spec', lambda _: None)
    monkeypatch.setattr('tools.embedded.system_folders', list)
    with pytest.raises(EmbeddedServerError, match='apt install postgresql'):
        find_binaries()


class Run:
    """`make run`'s command, or another one, with its output."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self.log = folder / 'run.log'
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                command or SERVE,
                cwd=ROOT,
                env=patient_environment() | environment,
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

    def stop(self) -> None:
        self.process.terminate()  # it removes its files
        self.process.wait(DEADLINE_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return a function that starts one; arguments are as Run's without the folder."""
    started: list[Run] = []

    def start(*command: str, **environment: str) -> Run:
        started.append(Run(tmp_path, *command, **environment))
        return started[-1]

    yield start
    for run in started:
        run.stop()


@pytest.fixture
def running(start_run: Callable[..., Run], unused_port: int) -> Run:
    """Return a started `make run`."""
    return start_run(API_PORT=str(unused_port))


def assert_answers(run: Run) -> None:
    """Ask for everything whose address was printed, once it is served."""
    run.wait_until_printed('Listening at')
    urls = re.findall(r"http://[^\s']+/[^\s']+", run.log.read_text())
    assert [url.rsplit('/', 1)[1] for url in urls] == [
        'top-benefits',
        'available-benefits?personId=1',
        'inactivity-periods',
        'docs',
    ]
    for url in urls:
        answer = httpx.get(url, timeout=DEADLINE_S, follow_redirects=True)
        assert answer.status_code == 200
        assert len(answer.text if url.endswith('/docs') else answer.json()) > 2


@pytest.mark.slow
def test_run_serves_what_it_prints_and_ctrl_c_ends_all_of_it(running: Run) -> None:
    folder = Path(running.wait_until_printed(r'host=([^&]+)&')[1]).parent
    assert_answers(running)
    postgres = int(folder.joinpath('data', 'postmaster.pid').read_text().split()[0])
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(DEADLINE_S) == 0
    assert not folder.exists()
    assert not is_running(postgres)


@pytest.mark.slow
def test_run_on_any_free_port_prints_the_one_that_it_serves_on(
    start_run: Callable[..., Run],
) -> None:
    assert_answers(start_run(API_PORT='0'))


@pytest.mark.parametrize('database', ['', 'host=/nowhere'])
def test_run_on_a_port_in_use_tells_how_to_choose_another_and_prints_no_address(
    start_run: Callable[..., Run], database: str
) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        run = start_run(API_PORT=str(port), **({'DATABASE_URL': database} if database else {}))
        assert run.process.wait(DEADLINE_S) == 1
    assert run.log.read_text() == (
        f'error: cannot listen on 127.0.0.1 port {port}: Address already in use;'
        ' API_PORT=0 takes any port that is free\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize('command', [c for c in commands(ROOT / 'README.md') if ' run' in c])
def test_make_run(
    start_run: Callable[..., Run],
    tmp_path: Path,
    unused_port: int,
    sample_url: str,
    command: str,
) -> None:
    # on what is installed here already
    make = tmp_path / 'make'
    bin_ = Path(sys.executable).parent
    make.write_text(f'#!/bin/sh\nexec {shutil.which("make")} -o .venv/installed BIN={bin_} "$@"\n')
    make.chmod(0o755)
    run = start_run(
        *('sh', '-c', command.replace('postgresql://user@host:5432/name', f"'{sample_url}'")),
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        API_PORT=str(unused_port),
    )
    run.wait_until_printed('Listening at')
    answer = httpx.get(f'http://127.0.0.1:{unused_port}/venues/top-benefits', timeout=DEADLINE_S)
    assert answer.status_code == 200
    os.killpg(run.process.pid, signal.SIGINT)
    run.process.wait(DEADLINE_S)
    wait_for(lambda: not is_listening(unused_port))


@pytest.mark.slow
def test_sigterm_ends_all_of_it(running: Run) -> None:
    folder = Path(running.wait_until_printed(r'host=([^&]+)&')[1]).parent
    running.wait_until_printed('Listening at')
    running.process.terminate()
    assert running.process.wait(DEADLINE_S) == 0
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='other systems cannot tell a child of its end')
def test_killed_run_leaves_no_server(running: Run) -> None:
    folder = Path(running.wait_until_printed(r'host=([^&]+)&')[1]).parent
    postgres = int(folder.joinpath('data', 'postmaster.pid').read_text().split()[0])
    running.process.kill()
    wait_for(lambda: not is_running(postgres))
    shutil.rmtree(folder)


def test_password_is_no_argument_of_psql() -> None:
    with GuardedServer() as guarded:
        psql_program = program(guarded, 'psql')
        url = guarded.reader_url('test')
        command = (sys.executable, '-m', 'tools.embedded')
        with subprocess.Popen(
            [*command, 'sh', '-c', f'exec "{psql_program}" "$DATABASE_URL" -XAt'],
            cwd=ROOT,
            env=clean_environment() | {'DATABASE_URL': url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as psql:
            psql.stdin.write('select session_user;\n')
            psql.stdin.flush()
            assert psql.stdout.readline() == 'reader\n'
            shown = Path(f'/proc/{psql.pid}/cmdline').read_text()
            psql.stdin.close()
        assert 'dbname=test' in shown
        assert 'hunter2' not in shown


def test_configured_database_is_used_as_it_is(sample_url: str) -> None:
    finished = subprocess.run(
        [
            sys.executable,
            '-m',
            'tools.embedded',
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
