"""SIGHUP: new workers with the new code, SQL files and settings; no request is lost."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import Load, failures
from tests.support.project import copy_project, edit
from tests.support.service import TOP, ApiProcess, workers
from tests.support.waiting import wait_for

SQL, PYTHON = 'db/functions/top_benefits.sql', 'api/app.py'
WORKER = 'api/server/worker.py'

pytestmark = pytest.mark.slow


class Reloading(ApiProcess):
    """A service that runs on a copy of the project, with a settings file."""

    def __init__(self, folder: Path, url: str) -> None:
        self.project = copy_project(folder)
        self.settings = folder / 'settings.toml'
        self.settings.write_text(f'[database]\nurl = "{url}"\n[http]\ncache_s = 1000\n')
        environment = {'API_CONFIG': str(self.settings), 'API_WORKERS': '2'}
        super().__init__(folder, environment, folder_of_project=self.project)

    def reload(self) -> None:
        """Send SIGHUP, and wait until only new workers run."""
        wait_for(lambda: len(workers(self)) == 2)
        old = workers(self)
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(workers(self)) == 2 and not set(old) & set(workers(self)))

    def version(self) -> tuple[str, str, str]:
        """Return what shows which SQL file, Python and setting are live."""
        top = self.get(TOP)
        return (
            list(top.json()[0])[1],
            self.get('/live').json()['status'],
            top.headers['cache-control'].split('max-age=')[1][:4],
        )


@pytest.fixture
def reloading(tmp_path: Path, sample_url: str) -> Iterator[Reloading]:
    """Return a service that can be reloaded."""
    api = Reloading(tmp_path, sample_url)
    yield api
    assert api.stop() == 0


def test_reload_under_load_brings_the_new_version_and_loses_no_request(
    reloading: Reloading,
) -> None:
    old = reloading.version()
    with (
        Load(reloading.url, clients=4) as kept,
        Load(reloading.url, clients=4, headers={'Connection': 'close'}) as new,
    ):
        for number in range(1, 6):
            kept.wait_for(50)
            new.wait_for(50)
            version = (f'best{number}', f'alive{number}', f'200{number}')
            edit(reloading.project / SQL, f"'{old[0]}'", f"'{version[0]}'")
            edit(reloading.project / PYTHON, f'"{old[1]}"', f'"{version[1]}"')
            edit(reloading.settings, old[2], version[2])
            old = version
            reloading.reload()
            assert reloading.version() == version
        kept.wait_for(50)
        new.wait_for(50)
    assert failures(kept.asked) == []
    assert failures(new.asked) == []


@pytest.mark.parametrize(
    ('file', 'good', 'broken', 'reason'),
    [
        (SQL, '\nfrom venue\n', '\nfrom vanue\n', r'relation \"vanue\" does not exist'),
        (PYTHON, 'import falcon', 'import falcon from', 'invalid syntax (app.py, line '),
        (WORKER, 'import gc\n', 'import gc from\n', 'invalid syntax (worker.py, line '),
        ('../settings.toml', '= 1000', '= -1', '[http] cache_s: must be a whole number'),
    ],
    ids=['SQL', 'Python', 'worker', 'setting'],
)
def test_broken_file_keeps_the_old_version(
    reloading: Reloading, file: str, good: str, broken: str, reason: str
) -> None:
    old = reloading.version()
    edit(reloading.project / PYTHON, '"live"', '"alive"')
    edit(reloading.project / file, good, broken)
    reloading.reload()
    assert reloading.version() == old
    [line] = [line for line in reloading.output().splitlines() if 'level=error' in line]
    assert reason in line
    edit(reloading.project / file, broken, good)
    reloading.reload()
    assert reloading.version() == (old[0], 'alive', *old[2:])


def test_failure_of_the_application_is_a_problem(reloading: Reloading) -> None:
    edit(reloading.project / PYTHON, '    return app\n', '    return lambda *_: 1 / 0\n')
    reloading.reload()
    answer = reloading.get('/live')
    assert (answer.status_code, answer.json()['type']) == (500, '/docs/problems/internal-error')
