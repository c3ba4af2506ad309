"""`make dev`: a saved file is live soon; a broken one is a 500 that says what is wrong."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import DEADLINE_S, ROOT, ApiProcess, copy_project, edit, wait_for

TOP = '/venues/top-benefits'
SQL, PYTHON = 'db/functions/top_benefits.sql', 'api/app.py'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project."""
    return copy_project(tmp_path)


@pytest.fixture
def dev(tmp_path: Path, project: Path, sample_url: str) -> Iterator[ApiProcess]:
    """Return a service as `make dev` starts it, on a copy of the project."""
    assert 'GUNICORN_CMD_ARGS="--reload ' in (ROOT / 'Makefile').read_text()
    environment = {'DATABASE_URL': sample_url, 'GUNICORN_CMD_ARGS': '--reload'}
    api = ApiProcess(tmp_path, environment | {'API_WORKERS': '2'}, folder_of_project=project)
    wait_for(lambda: api.get('/live').status_code == 200)
    yield api
    assert api.stop() == 0


def shown(api: ApiProcess, path: str) -> tuple[int, str]:
    """Ask on new connections until several answers in a row are the same; returns that."""

    def is_same() -> tuple[int, str]:
        answers = {
            (answer.status_code, answer.text)
            for answer in [httpx.get(api.url + path, timeout=DEADLINE_S) for _ in range(8)]
        }
        return len(answers) == 1 and answers.pop()

    return wait_for(is_same)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('file', 'good', 'better', 'broken', 'reasons'),
    [
        (
            SQL,
            "'topBenefits180Days'",
            "'best'",
            "'best' from vanue",
            ['/db/functions/top_benefits.sql line ', ': syntax error at or near "from"'],
        ),
        (PYTHON, '"live"', '"alive"', '"alive" :', ['/api/app.py", line ', 'SyntaxError: ']),
    ],
    ids=['SQL', 'Python'],
)
def test_saved_file_is_live_soon_and_a_broken_one_says_what_is_wrong(
    dev: ApiProcess,
    project: Path,
    *,
    file: str,
    good: str,
    better: str,
    broken: str,
    reasons: list[str],
) -> None:
    path = TOP if file == SQL else '/live'
    edit(project / file, good, better)
    wait_for(lambda: better.strip('\'"') in shown(dev, path)[1])
    edit(project / file, better, broken)
    wait_for(lambda: shown(dev, path)[0] == 500)
    told = shown(dev, path)[1]
    assert [reason for reason in reasons if reason not in told] == []
    edit(project / file, broken, good)
    wait_for(lambda: shown(dev, path)[0] == 200)
    assert good.strip('\'"') in shown(dev, path)[1]
