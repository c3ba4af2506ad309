"""`make explain`, `make pgbench` and `make psql` run the function files on a real database."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from api.database.queries import FOLDER
from tests.support.commands import clean_environment
from tests.support.machine import missing, system_program
from tests.support.postgres import program
from tests.support.project import ROOT
from tools.embedded import EmbeddedServer

NAMES = sorted(path.stem for path in FOLDER.glob('*.sql'))
ALL = ' '.join(NAMES)


class Make:
    """Runs make, or its script measure.sh, with DATABASE_URL set."""

    def __init__(self, server: EmbeddedServer, url: str) -> None:
        for name in ('psql', 'pgbench'):
            program(server, name)
        self.path = f'{server.binaries}:{os.environ["PATH"]}'
        self._environment = clean_environment() | {'DATABASE_URL': url, 'PATH': self.path}

    def command(self, *arguments: str) -> dict:
        """Return arguments of subprocess to run make with the packages of this environment."""
        bin_ = Path(sys.executable).parent
        return {
            'args': ['make', '-o', '.venv/installed', f'BIN={bin_}', *arguments],
            'cwd': ROOT,
            'env': self._environment,
        }

    def finish(self, *arguments: str, stdin: str = '') -> subprocess.CompletedProcess:
        """Run make; the exit status may be any."""
        return subprocess.run(
            **self.command(*arguments), input=stdin, capture_output=True, text=True, check=False
        )

    def print(self, *arguments: str) -> str:
        """Run make; returns its output."""
        finished = self.finish(*arguments)
        assert (finished.returncode, finished.stderr) == (0, '')
        return finished.stdout

    def fail(self, *arguments: str) -> str:
        """Run make, which must fail, and return its only line on standard error."""
        finished = self.finish(*arguments)
        assert (finished.returncode, finished.stdout) == (2, '')
        [line, of_make] = finished.stderr.splitlines()
        assert of_make.startswith('make: ***')
        return line

    def measure(self, project: Path, tool: str, **values: str) -> subprocess.CompletedProcess:
        """Run measure.sh of a copy of the project; the exit status may be any."""
        return subprocess.run(
            ['sh', 'tools/measure.sh', tool],
            cwd=project,
            env=self._environment | values,
            capture_output=True,
            text=True,
            check=False,
        )

    def measure_own(
        self, project: Path, tool: str, sql: str, **values: str
    ) -> subprocess.CompletedProcess:
        """Run measure.sh of a copy of the project on a function file of the test."""
        own = project / 'db' / 'functions' / 'own.sql'
        own.write_text(f'-- name: own(venue_id)^\n{sql};\n')
        return self.measure(project, tool, FUNCTION='own', seconds='1', **values)


@pytest.fixture(scope='module')
def make(server: EmbeddedServer, sample_url: str) -> Make:
    """Return make on the sample data."""
    return Make(server, sample_url)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a copy of the files that a DBA needs."""
    for name in ('db', 'tools'):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize('name', NAMES)
def test_explain_shows_a_plan_that_ran(make: Make, name: str) -> None:
    printed = make.print('explain', f'FUNCTION={name}', 'venue_id=1', 'person_id=1')
    assert re.search(r'benefit_usage_\w+_idx on benefit_usage', printed)
    assert re.search(r'actual time=.* loops=[1-9]', printed)
    assert re.search(r'Buffers: shared hit=[1-9]', printed)
    assert "Settings: plan_cache_mode = 'force_custom_plan'" in printed
    assert 'COALESCE($' not in printed


def test_own_file_is_what_is_measured(make: Make, tmp_path: Path) -> None:
    # with a blank in its name
    folder = tmp_path / 'own files'
    folder.mkdir()
    bind = 'select coalesce(:timestamp::timestamptz, now())'
    text = f'-- name: top_benefits(timestamp)^\nselect 7 as seven, 2 ^ count(*) from ({bind}) as a'
    (folder / 'top_benefits.sql').write_text(f'{text};\n')
    config = tmp_path / 'config.toml'
    config.write_text(f'[database]\nfunctions = ["{tmp_path}/none here", "{folder}"]\n')
    printed = make.print('explain', 'FUNCTION=top_benefits', f'API_CONFIG={config}')
    assert 'benefit_usage' not in printed
    assert 'Aggregate' in printed
    make.print('pgbench', 'FUNCTION=top_benefits', 'SECONDS=1', f'API_CONFIG={config}')
    arguments = ['FUNCTION=inactivity_periods', 'venue_id=1', f'API_CONFIG={config}']
    assert 'benefit_usage' in make.print('explain', *arguments)


def test_explain_of_the_generic_plan_knows_no_values(make: Make) -> None:
    printed = make.print('explain', 'FUNCTION=inactivity_periods', 'venue_id=1', 'GENERIC=1')
    assert "Settings: plan_cache_mode = 'force_generic_plan'" in printed
    assert re.search(r'\$1 = |= \$1\b', printed)
    assert 'COALESCE($2, now())' in printed
    assert printed.splitlines()[0].endswith(' timestamp=NULL, generic plan')


@pytest.mark.parametrize('timestamp', ['2026-10-01T12:00:00Z', '2026-10-01 14:00:00+02'])
def test_explain_quotes_the_timestamp(make: Make, timestamp: str) -> None:
    arguments = ['FUNCTION=inactivity_periods', 'venue_id=1', f'timestamp={timestamp}']
    printed = make.print('explain', *arguments)
    assert "'2026-10-01 12:00:00'::timestamp without time zone" in printed


@pytest.mark.parametrize('timestamp', ["'); drop table venue; --", 'never'])
def test_explain_of_a_wrong_timestamp_is_one_line(make: Make, timestamp: str) -> None:
    line = make.fail('explain', 'FUNCTION=top_benefits', f'timestamp={timestamp}')
    assert 'invalid input syntax for type timestamp with time zone' in line
    assert timestamp in line


def test_explain_tells_where_the_plan_comes_from(make: Make) -> None:
    printed = make.print('explain', 'FUNCTION=available_benefits', 'venue_id=1', 'person_id=2')
    file, place, sizes, warning, empty, *plan = printed.splitlines()
    assert file == (
        'db/functions/available_benefits.sql, venue_id=1, person_id=2, timestamp=NULL, custom plan'
    )
    assert re.fullmatch(r'PostgreSQL \d+\.\d+.*, database clone_\d+', place)
    size = r'\d+ [kM]B'
    assert re.fullmatch(
        rf'venue: 30 rows, {size}; benefit: 154 rows, {size}; person: 400 rows, {size};'
        rf' benefit_usage: 200,314 rows, {size}',
        sizes,
    )
    assert warning.startswith('warning: every table has fewer than 1,000,000 rows')
    assert empty == ''
    # psql prints no frame and no line around the plan
    assert plan[0].startswith('Result  (cost=')
    assert plan[-1].startswith('Execution Time: ')
    # in a file or pipe, lines are not wrapped
    assert max(map(len, plan)) > 100


def test_explain_fits_the_terminal(make: Make) -> None:
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, 80))
    command = make.command('explain', 'FUNCTION=inactivity_periods', 'venue_id=1')
    with subprocess.Popen(**command, stdout=its) as process:
        os.close(its)
        printed = b''
        with suppress(OSError):  # its end, when the terminal is closed
            while part := os.read(ours, 10_000):
                printed += part
    os.close(ours)
    assert process.returncode == 0
    lines = printed.decode().splitlines()
    assert 40 < max(len(line) for line in lines) <= 80
    # wrapping loses no text
    assert '("usageTimestamp"<=' in re.sub(r'\s', '', printed.decode())


def test_explain_writes_json(make: Make, tmp_path: Path) -> None:
    out = tmp_path / 'plan.json'
    printed = make.print('explain', 'FUNCTION=top_benefits', f'OUT={out}')
    assert len(printed.splitlines()) == 4
    [explained] = json.loads(out.read_text())
    assert explained['Plan']['Actual Loops'] == 1
    assert 'Shared Hit Blocks' in explained['Plan']
    assert explained['Settings']['plan_cache_mode'] == 'force_custom_plan'


@pytest.mark.slow
def test_explain_draws_a_page(make: Make, project: Path) -> None:
    system_program('npm', 'npm')
    chromium = system_program('chromium', 'chromium')
    values = {'FUNCTION': 'top_benefits', 'PICTURE': 'plan.html'}
    drawn = make.measure(project, 'explain', **values)
    if 'npm cannot download pev2' in drawn.stderr:
        missing(f'npm reaches no registry: {drawn.stderr}')
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.endswith('\nplan.html: open it in a browser\n')
    page = project / 'plan.html'
    assert not re.search('(?:src|href)="', page.read_text().partition('<script')[0])
    shown = subprocess.run(
        [
            chromium,
            *('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'),
            *('--host-resolver-rules=MAP * ~NOTFOUND', f'--user-data-dir={project / "profile"}'),
            *('--virtual-time-budget=10000', '--dump-dom', page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    nodes = re.findall(r'class="text-start plan-node[^"]*"', shown)
    assert len(nodes) > 10
    assert re.search(r'Index Only Scan.*benefit_usage_benefit_id_usage_timestamp_idx', shown, re.S)
    assert '>db/functions/top_benefits.sql, timestamp=NULL, custom plan\n' in shown


def test_packages_that_are_not_the_pinned_ones_are_refused(make: Make, project: Path) -> None:
    npm = project / 'bin' / 'npm'
    npm.parent.mkdir()
    npm.write_text('#!/bin/sh\ntouch pev2-1.21.0.tgz vue-3.5.45.tgz bootstrap-5.3.9.tgz\n')
    npm.chmod(0o755)
    values = {'FUNCTION': 'top_benefits', 'PICTURE': 'plan.html'}
    refused = make.measure(project, 'explain', **values, PATH=f'{npm.parent}:{make.path}')
    assert refused.returncode == 1
    assert 'the downloaded packages do not have the expected hashes' in refused.stderr
    assert not (project / 'plan.html').exists()
    # the plan was written, for other viewers
    json.loads((project / 'plan.json').read_text())


@pytest.mark.parametrize('name', NAMES)
def test_pgbench_prints_transactions_and_latency(make: Make, name: str) -> None:
    printed = make.print('pgbench', f'FUNCTION={name}', 'SECONDS=1', 'CLIENTS=2')
    assert f'transaction type: db/functions/{name}.sql' in printed
    for line in ('query mode: prepared', 'number of clients: 2', 'duration: 1 s'):
        assert line in printed
    assert int(re.search(r'actually processed: (\d+)', printed)[1]) > 0
    assert re.search(r'^latency average = [\d.]+ ms$', printed, re.MULTILINE)


@pytest.mark.parametrize('target', ['explain', 'pgbench'])
@pytest.mark.parametrize('arguments', [[], ['FUNCTION=../schema']])
def test_missing_or_unknown_function_is_one_line(
    make: Make, target: str, arguments: list[str]
) -> None:
    assert make.fail(target, *arguments) == f'error: FUNCTION must be one of: {ALL}'


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (['FUNCTION=inactivity_periods'], 'inactivity_periods needs venue_id=NUMBER'),
        (['FUNCTION=inactivity_periods', 'venue_id=1;x'], 'needs venue_id=NUMBER'),
        (['FUNCTION=available_benefits', 'venue_id=1'], 'needs person_id=NUMBER'),
    ],
)
def test_missing_or_wrong_id_is_one_line(make: Make, arguments: list[str], named: str) -> None:
    assert named in make.fail('explain', *arguments)


def test_explain_changes_nothing(make: Make, project: Path) -> None:
    sql = 'delete from venue where id = :venue_id::bigint'
    finished = make.measure_own(project, 'explain', sql, venue_id='30')
    assert 'cannot execute DELETE in a read-only transaction' in finished.stderr


def test_pgbench_takes_ids_between_the_lowest_and_the_highest(make: Make, project: Path) -> None:
    # the sample data has the venues 1 to 30; another id divides by zero and ends pgbench
    sql = 'select 1 / (:venue_id::bigint between 1 and 30)::integer'
    finished = make.measure_own(project, 'pgbench', sql)
    assert finished.returncode == 0, finished.stderr
    narrower = make.measure_own(project, 'pgbench', sql.replace('30', '29'))
    assert 'division by zero' in narrower.stderr


@pytest.mark.parametrize('name', NAMES)
def test_psql_has_the_parameters_set(make: Make, name: str) -> None:
    finished = make.finish('psql', stdin=f'\\t \\a\n\\i db/functions/{name}.sql\n')
    assert (finished.returncode, finished.stderr) == (0, '')
    *_, answer = finished.stdout.splitlines()
    body, missing_entity = answer.rsplit('|', 1)
    assert json.loads(body)
    assert missing_entity == ''


def test_psql_takes_other_parameters(make: Make) -> None:
    finished = make.finish('psql', 'venue_id=2', 'person_id=3', stdin='\\echo :venue_id :person_id')
    assert finished.stdout == '2 3\n'
