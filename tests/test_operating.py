"""What the README tells those who operate it: its tables, its unit, its container's steps."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import (
    DEADLINE_S,
    ROOT,
    ApiProcess,
    clean_environment,
    free_port,
    is_listening,
    missing,
    system_program,
    wait_for,
)

README = (ROOT / 'README.md').read_text()
TOKEN = 'a-token-that-nobody-guesses'
UNIT = 'membership-benefits-api.service'
FOLDER = '/opt/membership-benefits-api'
# of 100, where 100 is no protection at all
MOST_EXPOSURE = 15


def block(language: str) -> str:
    """Return the README's only code block of a language."""
    [found] = re.findall(rf'^```{language}\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
    return found


def table(title: str) -> list[list[str]]:
    """Return the rows of the README's table whose first column begins with a title, as cells."""
    [found] = re.findall(
        rf'^\| {title}\b[^\n]*\n\| ---[^\n]*\n((?:\|[^\n]*\n)+)', README, re.MULTILINE
    )
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in found.splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r'`([^`]+)`', cell)


def scraped(api: ApiProcess) -> dict[str, tuple[str, set[str]]]:
    """Return the type and labels of each metric, by name."""
    found = {}
    for family in text_string_to_metric_families(api.get('/metrics').text):
        name = family.name + ('_total' if family.type == 'counter' else '')
        labels = {label for sample in family.samples for label in sample.labels} - {'le'}
        found[name] = (family.type, labels)
    return found


def test_table_of_metrics_is_what_is_scraped(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url)
    assert api.get('/venues/top-benefits').status_code == 200
    assert api.get('/venues/x/inactivity-periods').status_code == 400
    told = {names(name)[0]: (type_, set(names(labels))) for name, type_, labels, _ in table('name')}
    # the pools are told of once a second
    wait_for(lambda: 'benefits_api_database_connections' in scraped(api))
    assert scraped(api) == told


def test_table_of_endpoints_is_what_answers(api: ApiProcess) -> None:
    paths = [names(row[0])[0] for row in table('endpoint')]
    assert paths == ['/live', '/ready', '/metrics']
    assert {api.get(path).status_code for path in paths} == {200}


@pytest.mark.parametrize('number', ['SIGQUIT', 'SIGUSR1', 'SIGUSR2'])
def test_signal_that_is_not_handled_ends_parent_and_workers(
    sample_url: str, start_api: Callable, tmp_path: Path, number: str
) -> None:
    [(_, told)] = [row for row in table('signal') if number in row[0]]
    assert 'not handled' in told
    # what a parent leaves that dies like this goes with the test
    api = start_api(DATABASE_URL=sample_url, TMPDIR=str(tmp_path))
    api.process.send_signal(signal.Signals[number])
    assert api.process.wait(DEADLINE_S) == -signal.Signals[number]
    wait_for(lambda: not is_listening(api.port))


@pytest.mark.parametrize(('token', 'printed'), [(TOKEN, '"venueId"'), ('', '/unauthorized"')])
def test_example_with_a_token(
    sample_url: str, start_api: Callable, token: str, printed: str
) -> None:
    if not shutil.which('curl'):
        pytest.skip('there is no curl on this machine')
    api = start_api(DATABASE_URL=sample_url, API_TOKEN_SHA256=sha256(TOKEN.encode()).hexdigest())
    [line] = [line for line in README.splitlines() if '$TOKEN' in line]
    finished = subprocess.run(
        ['sh', '-c', line.replace('http://127.0.0.1:8000', api.url)],
        env=clean_environment() | {'TOKEN': token},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed in finished.stdout


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the README's unit, with the folder of the code in a folder of the test's own."""
    there = tmp_path / 'opt'
    (there / '.venv' / 'bin').mkdir(parents=True)
    (there / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
    text = block('ini')
    assert text.count(FOLDER) == 2
    path = tmp_path / UNIT
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


def test_unit_waits_longer_than_an_end_takes() -> None:
    # shutdown_timeout_s is 10, and the parent waits a second more for its workers
    assert int(re.search(r'^TimeoutStopSec=(\d+)$', block('ini'), re.MULTILINE)[1]) > 11
    assert int(re.search(r'--stop-timeout (\d+)', README)[1]) > 11


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


class Recipe:
    """Does what the README's Dockerfile says in a folder, for want of a container.

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
        for instruction in block('dockerfile').splitlines():
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
        'env': clean_environment()
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
                assert succeeds(recipe.commands['HEALTHCHECK'])
                for path in ('/ready', '/venues/top-benefits', '/docs', '/metrics'):
                    assert httpx.get(f'http://127.0.0.1:{port}{path}').status_code == 200
            finally:
                process.send_signal(recipe.stop_signal)
            assert process.wait(DEADLINE_S) == 0
    assert list(temporary.iterdir()) == []
