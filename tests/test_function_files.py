"""The function files do what their users expect: in psql, in pgbench, as a fourth report."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from api.database.functions import FOLDER, Bind, FunctionFileError, load_function

from api.app import REPORTS
from api.http.parameters import http_name
from tests.support import (
    ORACLES,
    PLAIN,
    ROOT,
    ApiProcess,
    clean_environment,
    copy_project,
    program,
    run,
)
from tools.embedded import EmbeddedServer

FILES = sorted(FOLDER.glob('*.sql'))
NAMES = [path.name for path in FILES]
# with those that a site can choose instead
ALL_FILES = FILES + sorted(PLAIN.glob('*.sql'))
MOMENT = '2024-07-01T12:00:00+00:00'
every_file = pytest.mark.parametrize('path', ALL_FILES, ids=lambda p: f'{p.parent.name}/{p.name}')
# what a report is asked with where it asks for it
VALUES = {'venue_id': '1', 'person_id': '1', 'timestamp': MOMENT}
TESTS = ROOT / 'tests' / 'functions'


def url(path: Path, timestamp: str) -> str:
    """Return the URL of a file's report, as of a moment."""
    [report] = [report for report in REPORTS if report.function == path.stem]
    values = {
        http_name(bind.name): (VALUES | {'timestamp': timestamp})[bind.name]
        for bind in load_function(path).binds
    }
    # what the path does not name goes to the query string
    query = {name: values[name] for name in values if f'{{{name}}}' not in report.path}
    return f'{report.path.format(**values)}?{urlencode(query)}'


def test_every_file_has_a_route_and_every_route_a_file() -> None:
    lacking = {path.stem for path in FILES} - {report.function for report in REPORTS}
    assert not lacking, f'REPORTS in api/app.py has no line for {lacking}'
    assert sorted(report.function for report in REPORTS) == [path.stem for path in FILES]
    for report in REPORTS:
        assert report.path.rsplit('/', 1)[1] == report.function.replace('_', '-')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_file_has_tests_and_another_form(path: Path) -> None:
    tests = TESTS / f'test_{path.stem}.py'
    assert tests.exists(), f'{path.name} lacks {tests.relative_to(ROOT)}'
    others = [(folder / path.name).exists() for folder in ORACLES]
    assert any(others), f'{path.name} lacks another form, in db/plain or tests/functions/oracle'


@every_file
def test_file_in_psql_gives_the_bytes_of_the_http_body(
    server: EmbeddedServer, api: ApiProcess, sample_url: str, path: Path
) -> None:
    for timestamp in (MOMENT, '2026-01-31T00:00:00.123456+00:00'):
        printed = run(
            *[
                program(server, 'psql'),
                sample_url,
                '-X',
                '-At',
                '-v',
                'ON_ERROR_STOP=1',
            ],
            *[
                '-v',
                'venue_id=1',
                '-v',
                'person_id=1',
                '-v',
                f"timestamp='{timestamp}'",
            ],
            *['-f', str(path)],
        )
        body, missing = printed.rstrip('\n').rsplit('|', 1)
        answer = api.get(url(path, timestamp))
        assert body.encode() == answer.content
        assert missing == ''


@every_file
def test_file_in_psql_takes_null_for_now(
    server: EmbeddedServer, sample_url: str, path: Path
) -> None:
    printed = run(
        *[program(server, 'psql'), sample_url, '-X', '-At', '-v', 'ON_ERROR_STOP=1'],
        *[
            '-v',
            'venue_id=1',
            '-v',
            'person_id=1',
            '-v',
            'timestamp=NULL',
            '-f',
            str(path),
        ],
    )
    assert printed.startswith('[{')


@pytest.mark.parametrize('mode', ['simple', 'extended', 'prepared'])
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


@every_file
def test_comments_and_literals_hold_nothing_that_a_tool_takes_for_a_variable(
    path: Path,
) -> None:
    text = path.read_text()
    assert '%' not in text
    assert text.endswith(';\n')
    binds = [match[1] for match in re.finditer(r'(?<!:):(\w+)', text)]
    assert sorted(binds) == sorted(bind.name for bind in load_function(path).binds)


@every_file
def test_file_names_its_route(path: Path) -> None:
    [route] = [report.path for report in REPORTS if report.function == path.stem]
    line = rf'^-- Serves +GET {re.escape(route)}$'
    assert re.search(line, path.read_text(), re.MULTILINE), f'{path.name} lacks: Serves GET {route}'


FOURTH = """\
-- name: busiest_days(venue_id, since, timestamp)^
with params as (
    select
        :venue_id::bigint as venue_id,
        :since::timestamptz at time zone 'UTC' as since,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
)

select json_build_array(params.venue_id, params.since) as body, null::text as missing from params;
"""


@pytest.fixture
def copied_project(tmp_path: Path) -> Path:
    """Return a copy of the project that a test may change."""
    return copy_project(tmp_path)


def add_route(folder: Path, line: str) -> None:
    path = folder / 'api' / 'app.py'
    head, tail = path.read_text().split('REPORTS = (\n')
    path.write_text(f'{head}REPORTS = (\n{line}\n{tail}')


def test_fourth_report_is_one_file_and_one_line(
    copied_project: Path, sample_url: str, tmp_path: Path
) -> None:
    (copied_project / 'db' / 'functions' / 'busiest_days.sql').write_text(FOURTH)
    add_route(copied_project, "    Report('/venues/{venueId}/busiest-days', 'busiest_days'),")
    environment = {'DATABASE_URL': sample_url}
    api = ApiProcess(tmp_path, environment, folder_of_project=copied_project)
    try:
        path = '/venues/7/busiest-days'
        assert api.get(f'{path}?since=2024-07-01').json() == [7, '2024-07-01T00:00:00']
        assert api.get(path).json()['detail'] == 'since is required'
        assert api.get('/venues/x/busiest-days').status_code == 400
    finally:
        api.stop()


@pytest.mark.slow
def test_tests_tell_what_a_fourth_report_lacks(tmp_path: Path) -> None:
    folder = tmp_path / 'project'
    ignore = shutil.ignore_patterns('.*', '__pycache__', 'node_modules')
    shutil.copytree(ROOT, folder, ignore=ignore)
    (folder / 'db' / 'functions' / 'busiest_days.sql').write_text(FOURTH)

    def told() -> str:
        """Run the tests that need no database; returns what they print."""
        files = ['tests/test_function_files.py', 'tests/test_readme.py']
        words = [*files, 'tests/http/test_openapi.py', '-k', 'route or another_form or reports']
        finished = subprocess.run(
            [sys.executable, '-m', 'pytest', '-p', 'no:xdist', '-p', 'no:cacheprovider', *words],
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 1, finished.stdout + finished.stderr
        return finished.stdout

    assert "REPORTS in api/app.py has no line for {'busiest_days'}" in told()
    add_route(folder, "    Report('/venues/{venueId}/busiest-days', 'busiest_days'),")
    output = told()
    for lacking in (
        'busiest_days.sql lacks: Serves GET /venues/{venueId}/busiest-days',
        'busiest_days.sql lacks tests/functions/test_busiest_days.py',
        "api/openapi.json lacks {'/venues/{venueId}/busiest-days'}",
        "the table of reports in README.md lacks {'/venues/{venueId}/busiest-days'}",
        'README.md shows no request and answer for some of',
    ):
        assert lacking in output, output


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'busiest_days.sql: '),
        ('select 1;', 'must define busiest_days'),
        (FOURTH.replace('busiest_days', 'other'), 'must define busiest_days'),
        (FOURTH.replace('(venue_id, since', '(venue_id'), 'undeclared parameter'),
        (
            FOURTH.replace('(venue_id,', '(venue_id, unused,'),
            'unused declared parameter',
        ),
        (
            FOURTH.replace(':since::timestamptz', ':since'),
            ':since must be used once, with a cast',
        ),
        (
            FOURTH.replace('select json', 'select :since::text, json'),
            'line 9: :since must be used once',
        ),
        (
            FOURTH.replace('coalesce(:timestamp::', 'coalesce(nullif(:timestamp::'),
            'line 6: :timestamp must stand alone in a select list',
        ),
        (
            FOURTH.replace(':since::timestamptz', 'date(:since::timestamptz)'),
            'line 5: :since must stand alone in a select list',
        ),
        (
            FOURTH.replace(':since::timestamptz', 'now()').replace(
                'from params', 'from (select 1 as n) as one, params where n = :since::bigint'
            ),
            'line 9: :since must stand alone in a select list',
        ),
        (FOURTH.replace('null::text', "'100 %'::text"), 'line 9: a percent sign'),
    ],
)
def test_file_that_does_not_hold_what_it_promises_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / 'busiest_days.sql'
    if text:
        path.write_text(text)
    with pytest.raises(FunctionFileError, match=message):
        load_function(path)


def test_parameter_may_stand_in_the_last_select_list(tmp_path: Path) -> None:
    path = tmp_path / 'echo.sql'
    path.write_text(
        '-- name: echo(venue_id)^\n'
        'with one as (select 1 as n)\n\n'
        'select json_build_array(n) as body, :venue_id::bigint::text as missing from one;\n'
    )
    [bind] = load_function(path).binds
    assert bind == Bind('venue_id', 'bigint', optional=False)


@pytest.mark.parametrize('head', ['', '\n', '\n\n-- about\n\n\n'])
def test_lines_of_a_statement_are_those_of_its_file(tmp_path: Path, head: str) -> None:
    path = tmp_path / 'busiest_days.sql'
    path.write_text(FOURTH.replace('^\n', f'^\n{head}').replace('as (\n', 'as (\n  -- all\n'))
    function = load_function(path)
    file = path.read_text().splitlines()
    statement = function.sql.replace('/* busiest_days.sql */ ', '').splitlines()
    for number, line in zip(function.lines, statement, strict=True):
        assert re.sub(r'%\((\w+)\)s', r':\1', line) == file[number - 1]


@pytest.mark.parametrize(
    ('file', 'line', 'message'),
    [
        (
            FOURTH,
            "Report('/venues/{venue}/busiest-days', 'busiest_days'),",
            'has no bind for venue',
        ),
        (
            FOURTH.replace('since::timestamptz', 'since::date'),
            "Report('/venues/{venueId}/busiest-days', 'busiest_days'),",
            ':since must be cast to bigint or timestamptz',
        ),
        (FOURTH, "Report('/nothing', 'nothing'),", 'nothing.sql: '),
    ],
)
def test_route_that_does_not_fit_its_file_ends_the_start_with_one_line(
    copied_project: Path, tmp_path: Path, file: str, line: str, message: str
) -> None:
    (copied_project / 'db' / 'functions' / 'busiest_days.sql').write_text(file)
    add_route(copied_project, f'    {line}')
    with pytest.raises(AssertionError, match='error: .*' + re.escape(message)):
        ApiProcess(tmp_path, {'DATABASE_URL': 'host=a'}, folder_of_project=copied_project)
