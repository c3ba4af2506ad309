"""The files in deploy/: the unit, the Dockerfile, and the steps that the page tells."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.config import Settings
from tests.pages import blocks, command
from tests.support.commands import patient_environment, run
from tests.support.machine import free_port, is_listening, missing, system_program
from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S, wait_for

UNIT = ROOT / 'deploy' / 'membership-benefits-api.service'
DOCKERFILE = ROOT / 'deploy' / 'Dockerfile'
FOLDER = '/opt/membership-benefits-api'
SETTINGS_FOLDER = '/etc/membership-benefits-api'
# of 100, where 100 is no protection at all
MOST_EXPOSURE = 15
# the parent looks for the end of its workers every 0.1 s
END_TAKES_S = Settings().shutdown_timeout_s + 1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit, with the folder of the code in a folder of the test's own."""
    there = tmp_path / 'opt'
    (there / '.venv' / 'bin').mkdir(parents=True)
    (there / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
    text = UNIT.read_text()
    assert text.count(FOLDER) == 2
    path = tmp_path / UNIT.name
    path.write_text(text.replace(FOLDER, str(there)))
    return path


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess:
    """Run systemd-analyze, which needs no systemd that runs."""
    return subprocess.run(
        [system_program('systemd-analyze', 'systemd'), '--no-pager', *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_unit_is_one_that_systemd_understands(unit: Path) -> None:
    verified = systemd_analyze('verify', '--man=no', '--recursive-errors=no', str(unit))
    # an unknown key is only a line
    assert (verified.returncode, verified.stderr) == (0, '')


def test_unit_leaves_little_exposed(unit: Path) -> None:
    if '--threshold' not in systemd_analyze('--help').stdout:
        missing('this systemd-analyze cannot rate a file (it can from 250 on)')
    rated = systemd_analyze('security', '--offline=true', f'--threshold={MOST_EXPOSURE}', str(unit))
    assert rated.returncode == 0, rated.stdout + rated.stderr


def test_unit_and_container_wait_longer_than_an_end_takes() -> None:
    told = re.search(r'^TimeoutStopSec=(\d+)$', UNIT.read_text(), re.MULTILINE)[1]
    assert int(told) > END_TAKES_S
    assert int(re.search(r'--stop-timeout (\d+)', command('docker run '))[1]) > END_TAKES_S


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write in a folder for a while."""
    paths = [path for path in [folder, *folder.rglob('*')] if not path.is_symlink()]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


def instructions() -> list[str]:
    """Return the instructions of the Dockerfile, each of one line."""
    lines = DOCKERFILE.read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def test_build_context_is_what_is_copied() -> None:
    # all is left out, but for these
    first, *others = [
        line
        for line in (ROOT / '.dockerignore').read_text().splitlines()
        if not line.startswith('#')
    ]
    assert first == '*'
    let_in = {line.removeprefix('!') for line in others if line.startswith('!')}
    assert let_in == {line.split()[1] for line in instructions() if line.startswith('COPY ')}
    assert set(others) - {f'!{path}' for path in let_in} == {'**/__pycache__'}


def test_commands_build_with_the_file_and_serve_where_it_listens() -> None:
    assert f'-f {DOCKERFILE.relative_to(ROOT)} ' in command('docker build ')
    [port] = [line.split()[1] for line in instructions() if line.startswith('EXPOSE ')]
    assert f'-p 127.0.0.1:{port}:{port} ' in command('docker run ')


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with this project in it."""
    git = system_program('git', 'git')
    there = tmp_path / 'repository'
    ignore = shutil.ignore_patterns('__pycache__')
    for name in ('api', 'db', 'deploy', 'requirements'):
        shutil.copytree(ROOT / name, there / name, ignore=ignore)
    for name in ('Makefile', 'config.example.toml'):
        shutil.copy(ROOT / name, there)
    run(git, 'init', '--quiet', str(there))
    run(git, '-C', str(there), 'add', '.')
    me = ('-c', 'user.name=test', '-c', 'user.email=test@example.com')
    run(git, '-C', str(there), *me, 'commit', '--quiet', '--message', 'Test')
    return there


@pytest.mark.slow
def test_steps(tmp_path: Path, repository: Path, sample_url: str) -> None:
    [block] = [block for block in blocks('sh') if block.startswith('useradd ')]
    steps, started, asked = block.partition('systemctl enable --now membership-benefits-api\n')
    assert started
    assert len(asked.splitlines()) == 1
    project, settings = tmp_path / 'opt', tmp_path / 'etc' / 'config.toml'
    for there, here in [
        (FOLDER, project),
        (SETTINGS_FOLDER, settings.parent),
        ('/etc/systemd/system', tmp_path),
    ]:
        assert there in steps
        steps = steps.replace(there, str(here))
    # the user is not made here
    steps = steps.replace('-g membership-benefits-api', f'-g {os.getgid()}')
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, script in {
        'useradd': '#!/bin/sh\n',
        'python3': f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        # whoever edits the settings names the database
        'editor': f'#!{sys.executable}\nimport pathlib, sys\npath = pathlib.Path(sys.argv[1])\n'
        f'path.write_text(path.read_text().replace(\'url = ""\', \'url = "{sample_url}"\'))\n',
    }.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    environment = patient_environment() | {'REPOSITORY': str(repository)}
    environment['PATH'] = f'{programs}:{environment["PATH"]}'

    def finish(folder: Path, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    done = finish(tmp_path, 'sh', '-e', '-c', steps)
    if done.returncode and 'api --check' not in done.stderr and 'connection' in done.stderr.lower():
        missing(f'the packages cannot be installed here: {done.stderr[-500:]}')
    assert done.returncode == 0, done.stderr
    assert 'error' not in done.stderr
    assert settings.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / UNIT.name).read_text() == UNIT.read_text()

    # the make targets are for developers, and do not touch what serves
    refused = finish(project, 'make', 'token')
    assert refused.returncode != 0
    assert refused.stdout.startswith('error: make did not make .venv')
    made = finish(project, '.venv/bin/python', '-m', 'api', '--token')
    assert made.stdout.startswith('token: ')


class Recipe:
    """Does what the Dockerfile says in a folder, for want of a container.

    The base image is this Python, the root folder is `folder`.

    Attributes:
        environment: What ENV says.
        commands: What CMD and HEALTHCHECK say.
    """

    def __init__(self, folder: Path) -> None:
        self._python = folder / 'venv' / 'bin' / 'python'
        self.workdir = folder
        self.environment: dict[str, str] = {}
        self.commands: dict[str, list[str]] = {}
        subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], check=True)
        for instruction in instructions():
            name, _, rest = instruction.partition(' ')
            getattr(self, f'_{name.lower()}')(rest)

    def of_python(self, command: list[str]) -> list[str]:
        """Return a command with the Python of the folder."""
        assert command[0] == 'python'
        return [str(self._python), *command[1:]]

    def _from(self, image: str) -> None:
        assert re.fullmatch(r'python:3\.\d+-slim', image)

    def _workdir(self, path: str) -> None:
        self.workdir = self.workdir / path.lstrip('/')
        self.workdir.mkdir()

    def _copy(self, paths: str) -> None:
        source, target = paths.split()
        target = self.workdir / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            target.parent.mkdir()
            shutil.copy(ROOT / source, target)

    def _run(self, command: str) -> None:
        # outside an image, what was downloaded once may be used again
        words = [word for word in shlex.split(command) if word != '--no-cache-dir']
        finished = subprocess.run(
            self.of_python(words), cwd=self.workdir, capture_output=True, text=True, check=False
        )
        if finished.returncode and 'hash' not in finished.stderr.lower():
            missing(f'the packages cannot be installed here: {finished.stderr[-500:]}')
        assert finished.returncode == 0, finished.stderr

    def _env(self, variables: str) -> None:
        self.environment |= dict(item.split('=', 1) for item in variables.split())

    def _user(self, ids: str) -> None:
        assert '0' not in ids.split(':')

    def _expose(self, port: str) -> None:
        assert self.environment['API_PORT'] == port

    def _stopsignal(self, name: str) -> None:
        self.stop_signal = signal.Signals[name]

    def _healthcheck(self, rest: str) -> None:
        self.commands['HEALTHCHECK'] = self.of_python(json.loads(rest.partition(' CMD ')[2]))

    def _cmd(self, command: str) -> None:
        self.commands['CMD'] = self.of_python(json.loads(command))


@pytest.mark.slow
def test_recipe_serves_from_a_folder_that_it_cannot_write(tmp_path: Path, sample_url: str) -> None:
    recipe = Recipe(tmp_path / 'root')
    temporary = tmp_path / 'tmp'
    temporary.mkdir()
    port = free_port()
    launch = []
    if os.getuid() == 0:  # bound by permissions as others are, but let in to PostgreSQL's socket
        setpriv = system_program('setpriv', 'util-linux')
        launch = [setpriv, '--bounding-set=-all,+dac_read_search', '--no-new-privs']
    options = {
        'cwd': recipe.workdir,
        'env': patient_environment()
        | recipe.environment
        | {'API_PORT': str(port), 'API_WORKERS': '2', 'DATABASE_URL': sample_url}
        | {'TMPDIR': str(temporary), 'HOME': '/'},
        'stderr': subprocess.STDOUT,
    }

    def succeeds(command: list[str]) -> bool:
        finished = subprocess.run(
            [*launch, *command], check=False, stdout=subprocess.PIPE, **options
        )
        return finished.returncode == 0

    log = tmp_path / 'log'
    with read_only(tmp_path / 'root'), log.open('wb') as output:
        assert not succeeds(recipe.of_python(['python', '-c', "open('file', 'w')"]))
        assert not succeeds(recipe.commands['HEALTHCHECK'])
        command = [*launch, *recipe.commands['CMD']]
        with subprocess.Popen(command, stdout=output, **options) as process:
            try:
                wait_for(lambda: process.poll() is not None or is_listening(port))
                assert process.poll() is None, log.read_text()
                wait_for(lambda: succeeds(recipe.commands['HEALTHCHECK']))
                for path in ('/ready', '/venues/top-benefits', '/docs', '/metrics'):
                    answer = httpx.get(f'http://127.0.0.1:{port}{path}', timeout=DEADLINE_S)
                    assert answer.status_code == 200
            finally:
                process.send_signal(recipe.stop_signal)
            assert process.wait(DEADLINE_S) == 0
    assert list(temporary.iterdir()) == []
