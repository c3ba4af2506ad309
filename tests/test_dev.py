"""`make dev`: an edited file is live on the next request, and a broken one changes nothing."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import DEADLINE_S, ROOT, clean_environment, until

TOP = '/venues/top-benefits?timestamp=2024-07-01'


class Dev:
    """A running `python -m api.server.dev` on a copy of the project."""

    def __init__(self, folder: Path, port: int, database_url: str) -> None:
        self.folder = folder / 'project'
        for name in ('api', 'db'):
            shutil.copytree(ROOT / name, self.folder / name)
        self.log = folder / 'dev.log'
        self.url = f'http://127.0.0.1:{port}'
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'api.server.dev'],
                cwd=self.folder,
                env=clean_environment() | {'API_PORT': str(port), 'DATABASE_URL': database_url},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_until_logged('listening on')

    def wait_until_logged(self, text: str, times: int = 1) -> None:
        for _ in until():
            if self.log.read_text().count(text) >= times:
                return
            assert self.process.poll() is None, self.log.read_text()
        raise AssertionError(self.log.read_text())

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)


@pytest.fixture
def dev(tmp_path: Path, unused_port: int, sample_url: str) -> Iterator[Dev]:
    running = Dev(tmp_path, unused_port, sample_url)
    yield running
    running.process.terminate()
    assert running.process.wait(DEADLINE_S) == 0


def test_edited_files_are_live_and_broken_ones_are_not(dev: Dev) -> None:
    assert 'topBenefits180Days' in dev.get(TOP).json()[0]

    sql = 'db/functions/top_benefits.sql'
    dev.edit(sql, "'topBenefits180Days'", "'best'")
    dev.wait_until_logged('top_benefits.sql changed, the new version is live')
    assert 'best' in dev.get(TOP).json()[0]

    number = (dev.folder / sql).read_text().splitlines().index('from venue') + 1
    dev.edit(sql, '\nfrom venue\n', '\nfrom vanue\n')
    dev.wait_until_logged(
        f'top_benefits.sql changed, the old version stays: top_benefits.sql line {number}:'
        ' relation \\"vanue\\" does not exist'
    )
    assert 'best' in dev.get(TOP).json()[0]
    dev.edit(sql, '\nfrom vanue\n', '\nfrom venue\n')
    dev.wait_until_logged('the new version is live', times=2)

    dev.edit(sql, ':timestamp::timestamptz', ':moment::timestamptz')
    dev.wait_until_logged('undeclared parameter name in query top_benefits: moment')
    assert 'best' in dev.get(TOP).json()[0]
    dev.edit(sql, ':moment::timestamptz', ':timestamp::timestamptz')
    dev.wait_until_logged('the new version is live', times=3)

    dev.edit('api/app.py', '"live"', '"alive"')
    dev.wait_until_logged('app.py changed, the new version is live')
    assert dev.get('/live').json() == {'status': 'alive'}

    dev.edit('api/app.py', 'import falcon', 'import falcon from')
    dev.wait_until_logged('the old version stays: app.py line')
    assert dev.get('/live').json() == {'status': 'alive'}
