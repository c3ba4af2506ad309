"""The files in deploy/: the unit, the Dockerfile, and the steps of docs/deploying.md."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from api.config import Settings
from tests.pages import blocks, command
from tests.support.commands import patient_environment, run
from tests.support.machine import free_port, missing, system_program
from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S, wait_for

UNIT = ROOT / 'deploy' / 'membership-benefits-api.service'
DOCKERFILE = ROOT / 'deploy' / 'Dockerfile'
FOLDER = '/opt/membership-benefits-api'
SETTINGS_FOLDER = '/etc/membership-benefits-api'
# the maximum is 100, for no protection
MOST_EXPOSURE = 15
# a second more, because the parent checks every 0.1 s whether its workers have ended
END_TAKES_S = Settings().shutdown_timeout_s + 1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit, with the folder of the code replaced by one of the test."""
    there = tmp_path / 'opt'
    (there / '.venv' / 'bin').mkdir(parents=True)
    (there / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
    text = UNIT.read_text()
    assert text.count(FOLDER) == 2
    path = tmp_path / UNIT.name
    path.write_text(text.replace(FOLDER, str(there)))
    return path


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess:
    """Run systemd-analyze, which does not need a running systemd."""
    return subprocess.run(
        [system_program('systemd-analyze', 'systemd'), '--no-pager', *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_unit_is_one_that_systemd_understands(unit: Path) -> None:
    verified = systemd_analyze('verify', '--man=no', '--recursive-errors=no', str(unit))
    # an unknown key is only a message, not an error
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


def instruction(name: str) -> str:
    """Return the arguments of the only instruction with a name in the Dockerfile."""
    [rest] = re.findall(rf'^{name} (.+)$', DOCKERFILE.read_text(), re.MULTILINE)
    return rest


def copied() -> list[str]:
    """Return the paths that the Dockerfile copies."""
    return re.findall(r'^COPY (\S+) \1$', DOCKERFILE.read_text(), re.MULTILINE)


def test_image_gets_what_it_copies_and_listens_where_the_command_says() -> None:
    ignored = (ROOT / '.dockerignore').read_text().splitlines()
    let_in = [line.removeprefix('!') for line in ignored if line.startswith('!')]
    assert '*' in ignored
    assert sorted(let_in) == sorted(copied())
    port = instruction('EXPOSE')
    assert f' API_PORT={port} ' in instruction('ENV')
    assert f'-p 127.0.0.1:{port}:{port} ' in command('docker run ')


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a git repository with this project."""
    git = system_program('git', 'git')
    there = tmp_path / 'repository'
    ignore = shutil.ignore_patterns('__pycache__')
    for name in ('api', 'db', 'deploy', 'requirements'):
        shutil.copytree(ROOT / name, there / name, ignore=ignore)
    for name in ('Makefile', 'config.example.toml'):
        shutil.copy(ROOT / name, there)
    git_there = [git, '-C', str(there), '-c', 'user.name=test', '-c', 'user.email=test@example.com']
    for words in (['init', '--quiet'], ['add', '.'], ['commit', '--quiet', '--message', 'Test']):
        run(*git_there, *words)
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
    # the user does not exist here
    steps = steps.replace('-g membership-benefits-api', f'-g {os.getgid()}')
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, script in {
        'useradd': '#!/bin/sh\n',
        'python3': f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        # sets the URL of the database
        'editor': f'#!{sys.executable}\nimport pathlib, sys\npath = pathlib.Path(sys.argv[1])\n'
        f'path.write_text(path.read_text().replace(\'url = ""\', \'url = "{sample_url}"\'))\n',
    }.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    environment = patient_environment() | {'REPOSITORY': str(repository)}
    environment['PATH'] = f'{programs}:{environment["PATH"]}'

    done = subprocess.run(
        ['sh', '-e', '-c', steps],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and 'api --check' not in done.stderr and 'connection' in done.stderr.lower():
        missing(f'the packages cannot be installed here: {done.stderr[-500:]}')
    assert done.returncode == 0, done.stderr
    assert 'error' not in done.stderr
    assert settings.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / UNIT.name).read_text() == UNIT.read_text()


@pytest.mark.slow
def test_image_serves_from_a_folder_that_it_cannot_write(tmp_path: Path, sample_url: str) -> None:
    root, temporary = tmp_path / 'root', tmp_path / 'tmp'
    temporary.mkdir()
    for name in ('api', 'db'):
        assert name in copied()
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns('__pycache__'))
    port = free_port()
    launch = []
    if os.getuid() == 0:  # without root's rights, except access to PostgreSQL's socket
        setpriv = system_program('setpriv', 'util-linux')
        launch = [setpriv, '--bounding-set=-all,+dac_read_search', '--no-new-privs']
    options = {
        'cwd': root,
        'env': patient_environment()
        | dict(item.split('=') for item in instruction('ENV').split())
        | {'API_PORT': str(port), 'API_WORKERS': '2', 'DATABASE_URL': sample_url}
        | {'TMPDIR': str(temporary), 'HOME': '/'},
    }

    def of_image(text: str) -> list[str]:
        [python, *words] = json.loads(text)
        assert python == 'python'
        return [*launch, sys.executable, *words]

    def succeeds(command: list[str]) -> bool:
        return not subprocess.run(command, capture_output=True, check=False, **options).returncode

    health = of_image(instruction('HEALTHCHECK').partition(' CMD ')[2])
    run('chmod', '-R', 'a-w', str(root))
    try:
        assert not succeeds(of_image('["python", "-c", "open(\'file\', \'w\')"]'))
        assert not succeeds(health)
        with subprocess.Popen(of_image(instruction('CMD')), **options) as process:
            try:
                wait_for(lambda: process.poll() is not None or succeeds(health))
                for path in ('/ready', '/venues/top-benefits', '/docs', '/metrics'):
                    answer = httpx.get(f'http://127.0.0.1:{port}{path}', timeout=DEADLINE_S)
                    assert answer.status_code == 200
            finally:
                process.send_signal(signal.Signals[instruction('STOPSIGNAL')])
            assert process.wait(DEADLINE_S) == 0
    finally:
        run('chmod', '-R', 'u+w', str(root))
    assert list(temporary.iterdir()) == []
