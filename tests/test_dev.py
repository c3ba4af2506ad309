"""`make dev`: an edited file is live, SQL on the next request, and a broken one changes nothing."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import DEADLINE_S, ROOT, patient_environment, until

TOP = '/venues/top-benefits?timestamp=2024-07-01'


class Dev:
    """A running `python -m api.server.dev` on a copy of the project."""

    def __init__(self, folder: Path, port: int, database_url: str, **environment: str) -> None:
        self.folder = folder / 'project'
        for name in ('api', 'db', 'tools'):
            shutil.copytree(ROOT / name, self.folder / name)
        self.log = folder / 'dev.log'
        self.url = f'http://127.0.0.1:{port}'
        with self.log.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'api.server.dev'],
                cwd=self.folder,
                env=patient_environment()
                | {'API_PORT': str(port), 'DATABASE_URL': database_url}
                | environment,
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
        return httpx.get(self.url + path, timeout=DEADLINE_S)


@pytest.fixture
def dev(tmp_path: Path, unused_port: int, sample_url: str) -> Iterator[Dev]:
    running = Dev(tmp_path, unused_port, sample_url)
    yield running
    running.process.terminate()
    assert running.process.wait(DEADLINE_S) == 0


def test_edited_sql_is_live_on_the_next_request_and_a_broken_one_is_not(dev: Dev) -> None:
    sql = 'db/functions/top_benefits.sql'
    text = (dev.folder / sql).read_text()
    number = text.splitlines().index('from venue') + 1
    faults = [
        ('\nfrom venue\n', '\nfrom vanue\n', f'line {number}: relation \\"vanue\\" does not exist'),
        (':timestamp::timestamptz', ':moment::timestamptz', 'undeclared parameter name'),
        (text, '', 'must define top_benefits'),
    ]
    name = 'topBenefits180Days'
    assert name in dev.get(TOP).json()[0]
    for edit in range(5):
        dev.edit(sql, f"'{name}'", f"'best{edit}'")
        name = f'best{edit}'
        assert name in dev.get(TOP).json()[0]
        good = (dev.folder / sql).read_text()
        old, new, complaint = faults[edit % len(faults)]
        dev.edit(sql, old if old != text else good, new)
        assert name in dev.get(TOP).json()[0]
        dev.wait_until_logged(complaint)
        (dev.folder / sql).write_text(good)
        assert name in dev.get(TOP).json()[0]
    dev.wait_until_logged('top_benefits.sql changed, the new version is live', times=10)
    log = dev.log.read_text()
    assert log.count('top_benefits.sql changed, the old version stays') == 5
    assert 'status=5' not in log


def test_own_file_is_live_when_it_comes_and_the_other_when_it_is_gone(
    tmp_path: Path, unused_port: int, sample_url: str
) -> None:
    own = tmp_path / 'own'
    own.mkdir()
    dev = Dev(tmp_path, unused_port, sample_url, API_FUNCTIONS=str(own))
    try:
        text = (dev.folder / 'db/functions/top_benefits.sql').read_text()
        (own / 'top_benefits.sql').write_text(text.replace("'topBenefits180Days'", "'best'"))
        assert 'best' in dev.get(TOP).json()[0]
        dev.wait_until_logged(f'{own}/top_benefits.sql changed, the new version is live')
        (own / 'top_benefits.sql').unlink()
        assert 'topBenefits180Days' in dev.get(TOP).json()[0]
    finally:
        dev.process.terminate()
        assert dev.process.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_edited_python_takes_over_from_what_still_serves(dev: Dev) -> None:
    statuses = []
    stop = threading.Event()

    def ask() -> None:
        # a connection that is kept has a request on its way at almost any moment
        with httpx.Client(base_url=dev.url, timeout=DEADLINE_S) as client:
            while not stop.is_set():
                statuses.append(client.get('/live').status_code)

    clients = ThreadPoolExecutor(4)
    asking = [clients.submit(ask) for _ in range(4)]
    try:
        dev.edit('api/app.py', '"live"', '"alive"')
        dev.wait_until_logged('app.py changed, the new version is live')
        assert dev.get('/live').json() == {'status': 'alive'}
        dev.edit('api/app.py', 'import falcon', 'import falcon from')
        dev.wait_until_logged('app.py changed, the old version stays')
        assert dev.get('/live').json() == {'status': 'alive'}
        # nor does a new one take over with a SQL file that is broken
        dev.edit('db/functions/top_benefits.sql', 'from venue', 'from vanue')
        dev.edit('api/app.py', 'import falcon from', 'import falcon')
        dev.wait_until_logged('app.py changed, the old version stays', times=2)
        assert dev.get(TOP).status_code == 200
        dev.edit('db/functions/top_benefits.sql', 'from vanue', 'from venue')
        dev.edit('api/app.py', '"alive"', '"kicking"')
        dev.wait_until_logged('app.py changed, the new version is live', times=2)
        assert dev.get('/live').json() == {'status': 'kicking'}
    finally:
        stop.set()
        clients.shutdown()
    for client in asking:
        client.result()
    assert set(statuses) == {200}


def test_what_serves_ends_when_its_parent_was_killed(
    tmp_path: Path, unused_port: int, sample_url: str
) -> None:
    dev = Dev(tmp_path, unused_port, sample_url)
    serving = psutil.Process(dev.process.pid).children()
    dev.process.kill()
    dev.process.wait(DEADLINE_S)
    assert not psutil.wait_procs(serving, DEADLINE_S)[1]
