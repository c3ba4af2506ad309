"""`make dev`: a saved file is used soon; a file with an error is a 500 with the reason."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.project import ROOT, copy_project, edit
from tests.support.service import TOP, ApiProcess
from tests.support.waiting import DEADLINE_S, until

SQL, PYTHON = 'db/functions/top_benefits.sql', 'api/app.py'
# gunicorn looks at the files every second
SAVE_AGAIN_S = 10


class Dev(ApiProcess):
    """A service as `make dev` starts it, on a copy of the project."""

    def __init__(self, folder: Path, url: str) -> None:
        assert 'GUNICORN_CMD_ARGS="--reload ' in (ROOT / 'Makefile').read_text()
        self.project = copy_project(folder)
        environment = {'DATABASE_URL': url, 'GUNICORN_CMD_ARGS': '--reload', 'API_WORKERS': '1'}
        super().__init__(folder, environment, folder_of_project=self.project)

    def save(self, file: str, old: str, new: str) -> None:
        """Change a text in a file."""
        edit(self.project / file, old, new)
        self._file, self._saved_at = self.project / file, time.monotonic()

    def wait_for(self, path: str, status: int, text: str) -> str:
        """Wait until a path is answered with a status and a text; returns the body."""
        for _ in until():
            answer = httpx.get(self.url + path, timeout=DEADLINE_S)
            if answer.status_code == status and text in answer.text:
                return answer.text
            # a worker that has just started may miss a change
            if time.monotonic() - self._saved_at > SAVE_AGAIN_S:
                self._file.touch()
                self._saved_at = time.monotonic()
        raise AssertionError(f'{answer.text}\n{self.output()}')


@pytest.fixture
def dev(tmp_path: Path, sample_url: str) -> Iterator[Dev]:
    """Return a service as `make dev` starts it."""
    running = Dev(tmp_path, sample_url)
    yield running
    assert running.stop() == 0


@pytest.mark.slow
def test_saved_file_is_live_soon_and_a_broken_one_says_what_is_wrong(dev: Dev) -> None:
    dev.save(SQL, "'topBenefits180Days'", "'best'")
    dev.wait_for(TOP, 200, '"best"')
    dev.save(SQL, '\nfrom venue\n', '\nfrom vanue\n')
    told = dev.wait_for(TOP, 500, 'relation "vanue" does not exist')
    number = (dev.project / SQL).read_text().splitlines().index('from vanue') + 1
    assert f'{dev.project / SQL} line {number}: ' in told
    dev.save(SQL, '\nfrom vanue\n', '\nfrom venue\n')
    dev.wait_for(TOP, 200, '"best"')
    dev.save(PYTHON, '"live"', '"alive"')
    dev.wait_for('/live', 200, '"alive"')
    dev.save(PYTHON, 'import falcon', 'import falcon from')
    told = dev.wait_for('/live', 500, 'SyntaxError: invalid syntax')
    assert f'File "{dev.project / PYTHON}", line ' in told
    dev.save(PYTHON, 'import falcon from', 'import falcon')
    dev.wait_for('/live', 200, '"alive"')
