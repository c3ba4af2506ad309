"""The SQL files work in psql, in pgbench, and as a new report."""

import re
import shutil
from pathlib import Path

import httpx
import psycopg
import pytest

from api.app import REPORTS
from api.database.queries import FOLDER, Parameter, QueryFileError, find_query, load_query
from tests.support.commands import run
from tests.support.postgres import program
from tests.support.project import ROOT, copy_project, edit
from tests.support.rows import ORACLES, PLAIN
from tests.support.service import AVAILABLE, INACTIVE, TOP, ApiProcess
from tools.embedded import EmbeddedServer

FILES = sorted(FOLDER.glob('*.sql'))
# including the plain forms
ALL_FILES = FILES + sorted(PLAIN.glob('*.sql'))
MOMENT = '2024-07-01T12:00:00+00:00'
every_file = pytest.mark.parametrize('path', ALL_FILES, ids=lambda p: f'{p.parent.name}/{p.name}')
TESTS = ROOT / 'tests' / 'functions'
PATHS = {'top_benefits': TOP, 'available_benefits': AVAILABLE, 'inactivity_periods': INACTIVE}


def test_every_file_has_a_route_and_every_route_a_file() -> None:
    lacking = {path.stem for path in FILES} - {report.query for report in REPORTS}
    assert not lacking, f'REPORTS in api/app.py has no line for {lacking}'
    assert sorted(report.query for report in REPORTS) == [path.stem for path in FILES]
    for report in REPORTS:
        assert report.path.rsplit('/', 1)[1] == report.query.replace('_', '-')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_file_has_tests_and_another_form(path: Path) -> None:
    tests = TESTS / f'test_{path.stem}.py'
    assert tests.exists(), f'{path.name} lacks {tests.relative_to(ROOT)}'
    others = [(folder / path.name).exists() for folder in ORACLES]
    assert any(others), f'{path.name} lacks another form, in db/plain or tests/functions/oracle'


@every_file
def test_file_names_its_route(path: Path) -> None:
    [route] = [report.path for report in REPORTS if report.query == path.stem]
    line = rf'^-- Serves +GET {re.escape(route)}$'
    assert re.search(line, path.read_text(), re.MULTILINE), f'{path.name} lacks: Serves GET {route}'


@every_file
def test_file_in_psql_gives_the_bytes_of_the_http_body(
    server: EmbeddedServer, api: ApiProcess, sample_url: str, path: Path
) -> None:
    psql = [program(server, 'psql'), sample_url, '-X', '-At', '-v', 'ON_ERROR_STOP=1']
    psql += ['-v', 'venue_id=1', '-v', 'person_id=1', '-f', str(path)]
    printed = run(*psql, '-v', f"timestamp='{MOMENT}'")
    url = httpx.URL(PATHS[path.stem]).copy_add_param('timestamp', MOMENT)
    assert printed.removesuffix('|\n').encode() == api.get(url).content
    # NULL means now
    assert run(*psql, '-v', 'timestamp=NULL').startswith('[{')


@pytest.mark.parametrize('mode', ['simple', 'prepared'])
@every_file
def test_file_is_a_pgbench_script(
    server: EmbeddedServer, sample_url: str, path: Path, mode: str
) -> None:
    timestamp = 'NULL' if mode == 'simple' else 'now'
    printed = run(
        *[program(server, 'pgbench'), '-n', '-M', mode, '-t', '7', '-f', str(path)],
        *['-D', 'venue_id=1', '-D', 'person_id=1', '-D', f'timestamp={timestamp}'],
        sample_url,
    )
    assert 'number of transactions actually processed: 7/7' in printed


FOURTH = """\
-- name: busiest_days(venue_id, since, timestamp)^
-- Days of a venue.
with params as (
    select
        :venue_id::bigint as venue_id,
        :since::timestamptz at time zone 'UTC' as since,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
)

select json_build_array(params.venue_id, params.since) as body, null::text as missing from params;
"""
ROUTE = "    Report('/venues/{venueId}/busiest-days', 'busiest_days'),\n"


def add_route(project: Path, line: str = ROUTE) -> None:
    """Add a line to the table of reports."""
    edit(project / 'api' / 'app.py', 'REPORTS = (\n', f'REPORTS = (\n{line}')


def test_fourth_report_is_one_file_and_one_line(sample_url: str, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    (project / 'db' / 'functions' / 'busiest_days.sql').write_text(FOURTH)
    add_route(project)
    api = ApiProcess(tmp_path, {'DATABASE_URL': sample_url}, folder_of_project=project)
    try:
        path = '/venues/7/busiest-days'
        assert api.get(f'{path}?since=2024-07-01').json() == [7, '2024-07-01T00:00:00']
        assert api.get(path).json()['detail'] == 'since is required'
        assert api.get('/venues/x/busiest-days').status_code == 400
    finally:
        api.stop()


def test_parameters_are_those_of_the_rule(tmp_path: Path) -> None:
    path = tmp_path / 'busiest_days.sql'
    path.write_text(FOURTH.replace('Days of', '100 % of the days of').ljust(50_000))
    assert load_query(path).parameters == (
        Parameter('venue_id', 'bigint', is_optional=False),
        Parameter('since', 'timestamptz', is_optional=False),
        Parameter('timestamp', 'timestamptz', is_optional=True),
    )


def test_cast_that_looks_like_a_parameter_is_kept(tmp_path: Path) -> None:
    path = tmp_path / 'busiest_days.sql'
    path.write_text(FOURTH.replace('null::text', 'now()::timestamp::date'))
    sql = load_query(path).sql.decode()
    assert 'now()::timestamp::date' in sql
    assert 'coalesce($3::timestamptz' in sql
    assert sql.count('/* busiest_days.sql */') == 1


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (FOURTH, '', r' line 1: must be -- name: busiest_days\(parameter, ...\)\^'),
        ('busiest_days(', 'other(', ' line 1: must be -- name: busiest_days'),
        (')^\n', ')\n', ' line 1: must be -- name: busiest_days'),
        (
            ', since',
            '',
            ' line 6: :since is not allowed here. Each parameter of line 1 must occur once',
        ),
        ('(venue_id', '(unused, venue_id', ': lacks the parameters unused'),
        ('null::text', ':since::text', ' line 10: :since is not allowed here'),
        (':since::timestamptz', ':since', ' line 6: :since is not allowed here'),
        ('Days of', 'Days :of', ' line 2: :of is not allowed here'),
        ('Days of', 'Tage f\udcfcr', ' line 2: must be UTF-8 without NUL bytes'),
        ('null::text', 'null\0::text', ' line 10: must be UTF-8 without NUL bytes'),
    ],
)
def test_file_that_breaks_the_rule_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / 'busiest_days.sql'
    path.write_bytes(FOURTH.encode())
    load_query(path)
    assert old in FOURTH
    path.write_bytes(FOURTH.replace(old, new, 1).encode(errors='surrogateescape'))
    with pytest.raises(QueryFileError, match=f'^{re.escape(str(path))}{message}'):
        load_query(path)


def test_file_of_a_site_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'top_benefits.sql'
    path.mkdir()
    with pytest.raises(QueryFileError, match=f'^{path}: Is a directory$'):
        find_query('top_benefits', [str(tmp_path)])
    path.rmdir()
    path.symlink_to('nowhere')
    with pytest.raises(QueryFileError, match=f'^{path}: No such file or directory$'):
        find_query('top_benefits', [str(tmp_path)])


def test_file_of_a_site_replaces_one_with_the_same_parameters(tmp_path: Path) -> None:
    name = 'inactivity_periods'
    path = tmp_path / f'{name}.sql'
    assert find_query(name, [str(tmp_path)]).path == FOLDER / path.name
    shutil.copy(PLAIN / path.name, path)
    assert find_query(name, [str(tmp_path), str(PLAIN)]).path == path
    edit(path, ':venue_id::bigint', ':venue_id::timestamptz')
    with pytest.raises(QueryFileError, match=f'{path}: must have the parameters of {FOLDER}'):
        find_query(name, [str(tmp_path)])
    with pytest.raises(QueryFileError, match='nowhere: No such file or directory'):
        find_query(name, [str(tmp_path / 'nowhere')])


def test_position_of_an_error_is_told_as_a_line_of_the_file(
    database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / 'busiest_days.sql'
    path.write_text('\ufeff' + FOURTH.replace('params.since)', 'params.nothing)'))
    query = load_query(path)
    values = [None] * len(query.parameters)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.UndefinedColumn) as raised,
    ):
        psycopg.RawCursor(connection).execute(query.sql, values)
    assert query.line_at(raised.value.diag.statement_position) == ' line 10'
    assert query.line_at(None) == ''


@pytest.mark.parametrize(
    ('file', 'line', 'message'),
    [
        (FOURTH, ROUTE.replace('venueId', 'venue'), 'needs a parameter for venue'),
        (
            FOURTH.replace('since::timestamptz', 'since::date'),
            ROUTE,
            ':since must be cast to bigint or timestamptz',
        ),
        (FOURTH, "    Report('/nothing', 'nothing'),\n", 'nothing.sql: No such file or directory'),
    ],
)
def test_route_that_does_not_fit_its_file_ends_the_start_with_one_line(
    tmp_path: Path, file: str, line: str, message: str
) -> None:
    project = copy_project(tmp_path)
    (project / 'db' / 'functions' / 'busiest_days.sql').write_text(file)
    add_route(project, line)
    with pytest.raises(AssertionError, match='error: .*' + re.escape(message)):
        ApiProcess(tmp_path, {'DATABASE_URL': 'host=a'}, folder_of_project=project)
