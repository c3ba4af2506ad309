"""A site's own SQL files, which the setting `functions` puts before those of db/functions."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from api.database.queries import FOLDER
from tests.support.commands import reason, run_check
from tests.support.service import INACTIVE, TOP, ApiProcess

HEAD = '-- name: top_benefits(timestamp)^\nselect '
BIND = '\nfrom (\nselect coalesce(:timestamp::timestamptz, now()) as as_of) as params'
OWN = f'{HEAD}\'["ours"]\'::json as body, null::text as missing{BIND};\n'

MOMENT = OWN.replace('(timestamp)', '(moment)').replace(':timestamp:', ':moment:')
REQUIRED = OWN.replace('coalesce(:timestamp::timestamptz, now())', ':timestamp::timestamptz')
ZERO = '(1 / (select count(*) from venue where id = 0))::text'
DELETE = 'with gone as (delete from venue returning id) select'


def check(url: str, *folders: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m api --check` with the files of some folders."""
    return run_check(url, API_FUNCTIONS=','.join(map(str, folders)), **environment)


def own(folder: Path, text: str = OWN) -> Path:
    """Put a file for top_benefits in a folder; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / 'top_benefits.sql').write_text(text)
    return folder


def test_own_file_answers_and_the_others_stay(
    sample_url: str, start_api: Callable[..., ApiProcess], tmp_path: Path
) -> None:
    folder = own(tmp_path / 'own')
    api = start_api(DATABASE_URL=sample_url, API_FUNCTIONS=str(folder))
    assert api.get(TOP).json() == ['ours']
    assert api.get(INACTIVE).json()[0]['benefitId']
    told = re.findall(r' event=report route=(\S+) file=(\S+)$', api.output(), re.MULTILINE)
    assert [file for _, file in told] == [
        f'{folder}/top_benefits.sql',
        f'{FOLDER}/available_benefits.sql',
        f'{FOLDER}/inactivity_periods.sql',
    ]
    assert told[0][0] == TOP
    assert api.output().index('event=report') < api.output().index('Listening at')


def test_check_tells_the_first_folder_that_has_the_file(sample_url: str, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ('first', 'second', 'third'))
    first.mkdir()
    own(second)
    own(third, 'select 1')
    # a relative folder is below the working directory
    checked = check(sample_url, first, second, third, Path('db/plain'))
    assert (checked.returncode, checked.stderr) == (0, '')
    assert checked.stdout.splitlines() == [
        f'/venues/top-benefits: {second}/top_benefits.sql',
        '/venues/{venueId}/available-benefits: db/plain/available_benefits.sql',
        '/venues/{venueId}/inactivity-periods: db/plain/inactivity_periods.sql',
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (OWN.replace('null::text', 'nothing'), 'line 2: column "nothing" does not exist'),
        (OWN.replace('null::text', '"a\nb"'), 'line 2: column "a b" does not exist'),
        (OWN.replace('as body', 'as boddy'), 'must return one row, body json and missing text'),
        (OWN.replace('::json', '::jsonb'), 'must return one row, body json and missing text'),
        (OWN.replace(BIND, f'{BIND}, generate_series(1, 2)'), 'must return one row, body json'),
        (MOMENT, f'must have the parameters of {FOLDER}/top_benefits.sql'),
        (REQUIRED, f'must have the parameters of {FOLDER}/top_benefits.sql'),
        ('select 1;', 'line 1: must be -- name: top_benefits(parameter, ...)^'),
        # errors when the file runs, but not when it is planned
        (OWN.replace('null::text', ZERO), 'division by zero'),
        (OWN.replace('select', DELETE, 1), 'in a read-only transaction'),
    ],
)
def test_broken_file_is_refused_by_its_path(
    sample_url: str, tmp_path: Path, text: str, message: str
) -> None:
    line = reason(check(sample_url, own(tmp_path / 'own', text), API_SESSION_SETTINGS='false'))
    assert line.startswith(f'error: {tmp_path}/own/top_benefits.sql')
    assert message in line


def test_folder_that_is_missing_is_refused(sample_url: str, tmp_path: Path) -> None:
    nowhere = tmp_path / 'nowhere'
    assert reason(check(sample_url, nowhere)) == f'error: {nowhere}: No such file or directory'
    file = own(tmp_path / 'own') / 'top_benefits.sql'
    assert reason(check(sample_url, file)) == f'error: {file}: Not a directory'


@pytest.mark.slow
def test_slow_file_is_told_of_once_and_does_not_hinder_the_start(
    sample_url: str, start_api: Callable[..., ApiProcess], tmp_path: Path
) -> None:
    folder = own(tmp_path / 'own', OWN.replace('as params', 'as params, pg_sleep(600)'))
    environment = {'API_STATEMENT_TIMEOUT_S': '3'}
    checked = check(sample_url, folder, **environment)
    assert checked.returncode == 0
    told = f'{folder}/top_benefits.sql exceeds statement_timeout_s, or waits for a lock (host='
    [line] = checked.stderr.splitlines()
    assert line.startswith(f'warning: {told}')
    api = start_api(DATABASE_URL=sample_url, API_FUNCTIONS=str(folder), **environment)
    assert api.get(INACTIVE).status_code == 200
    assert api.get(TOP).status_code == 504
    assert api.output().count(told) == 1
