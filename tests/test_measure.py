"""`make explain` and `make pgbench` run the function files on a real database."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.database.functions import FOLDER
from db.embedded import EmbeddedServer
from tests.support import ROOT, clean_environment, program

NAMES = sorted(path.stem for path in FOLDER.glob('*.sql'))
ALL = 'available_benefits inactivity_periods top_benefits'


class Make:
    """Calls make with DATABASE_URL set."""

    def __init__(self, server: EmbeddedServer, url: str) -> None:
        self._environment = clean_environment() | {
            'DATABASE_URL': url,
            'PATH': f'{server.binaries}:{os.environ["PATH"]}',
        }

    def finish(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run make on what is installed here already; the exit status may be any."""
        bin_ = Path(sys.executable).parent
        return subprocess.run(
            ['make', '-o', '.venv/installed', f'BIN={bin_}', *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def measure(
        self, folder: Path, tool: str, sql: str, **values: str
    ) -> subprocess.CompletedProcess:
        """Run measure.sh on a function file of the test's own."""
        (folder / 'functions').mkdir()
        (folder / 'functions' / 'own.sql').write_text(f'-- name: own(venue_id)^\n{sql};\n')
        shutil.copy(ROOT / 'db' / 'measure.sh', folder)
        return subprocess.run(
            ['sh', str(folder / 'measure.sh'), tool],
            env=self._environment | {'FUNCTION': 'own', 'seconds': '1'} | values,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def print(self, *arguments: str) -> str:
        """Run make and return what it prints."""
        finished = self.finish(*arguments)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ''
        return finished.stdout

    def fail(self, *arguments: str) -> str:
        """Run make, which must fail, and return its only line on standard error."""
        finished = self.finish(*arguments)
        assert finished.returncode == 2
        assert finished.stdout == ''
        [line, of_make] = finished.stderr.splitlines()
        assert of_make.startswith('make: ***')
        return line


@pytest.fixture(scope='module')
def make(server: EmbeddedServer, sample_url: str) -> Make:
    """Return make on the sample data."""
    for name in ('psql', 'pgbench'):
        program(server, name)
    return Make(server, sample_url)


@pytest.mark.parametrize('name', NAMES)
def test_explain_shows_a_plan_that_ran(make: Make, name: str) -> None:
    printed = make.print('explain', f'FUNCTION={name}', 'venue_id=1', 'person_id=1')
    assert re.search(r'benefit_usage_\w+_idx on benefit_usage', printed)
    assert re.search(r'actual time=.* loops=[1-9]', printed)
    assert re.search(r'Buffers: shared hit=[1-9]', printed)
    assert "Settings: plan_cache_mode = 'force_custom_plan'" in printed
    assert 'COALESCE($' not in printed


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return settings with a folder, with a blank in its name, that has a file of its own."""
    folder = tmp_path / 'own files'
    folder.mkdir()
    bind = 'select coalesce(:timestamp::timestamptz, now())'
    text = f'-- name: top_benefits(timestamp)^\nselect 7 as seven, 2 ^ count(*) from ({bind}) as a'
    (folder / 'top_benefits.sql').write_text(f'{text};\n')
    path = tmp_path / 'config.toml'
    path.write_text(f'[database]\nfunctions = ["/tmp/no commas", "{folder}"]\n')
    return path


def test_own_file_is_what_is_measured(make: Make, own: Path) -> None:
    printed = make.print('explain', 'FUNCTION=top_benefits', f'API_CONFIG={own}')
    assert 'benefit_usage' not in printed
    assert 'Aggregate' in printed
    make.print('pgbench', 'FUNCTION=top_benefits', 'SECONDS=1', f'API_CONFIG={own}')
    other = make.print('explain', 'FUNCTION=inactivity_periods', 'venue_id=1', f'API_CONFIG={own}')
    assert 'benefit_usage' in other


def test_explain_of_the_generic_plan_knows_no_values(make: Make) -> None:
    printed = make.print('explain', 'FUNCTION=inactivity_periods', 'venue_id=1', 'GENERIC=1')
    assert "Settings: plan_cache_mode = 'force_generic_plan'" in printed
    assert re.search(r'\$1 = |= \$1\b', printed)
    assert 'COALESCE($2, now())' in printed


@pytest.mark.parametrize('timestamp', ['2026-10-01T12:00:00Z', '2026-10-01 14:00:00+02'])
def test_explain_quotes_the_timestamp(make: Make, timestamp: str) -> None:
    arguments = ['FUNCTION=inactivity_periods', 'venue_id=1', f'timestamp={timestamp}']
    printed = make.print('explain', *arguments)
    assert "'2026-10-01 12:00:00'::timestamp without time zone" in printed


@pytest.mark.parametrize('timestamp', ["it's", "'); drop table venue; --", 'never'])
def test_explain_of_a_wrong_timestamp_is_one_line(make: Make, timestamp: str) -> None:
    line = make.fail('explain', 'FUNCTION=top_benefits', f'timestamp={timestamp}')
    assert 'invalid input syntax for type timestamp with time zone' in line
    assert timestamp in line


@pytest.mark.parametrize('name', NAMES)
def test_pgbench_prints_transactions_and_latency(make: Make, name: str) -> None:
    printed = make.print('pgbench', f'FUNCTION={name}', 'SECONDS=1', 'CLIENTS=2')
    assert 'query mode: prepared' in printed
    assert 'number of clients: 2' in printed
    assert 'duration: 1 s' in printed
    assert int(re.search(r'actually processed: (\d+)', printed)[1]) > 0
    assert re.search(r'^latency average = [\d.]+ ms$', printed, re.MULTILINE)
    assert re.search(r'^tps = [\d.]+', printed, re.MULTILINE)


@pytest.mark.parametrize('target', ['explain', 'pgbench'])
@pytest.mark.parametrize(
    'arguments', [[], ['FUNCTION=nothing'], ['FUNCTION=../schema'], [f'FUNCTION={ALL}']]
)
def test_missing_or_unknown_function_is_one_line(
    make: Make, target: str, arguments: list[str]
) -> None:
    assert make.fail(target, *arguments) == f'error: FUNCTION must be one of: {ALL}'


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (['FUNCTION=inactivity_periods'], 'inactivity_periods needs venue_id=NUMBER'),
        (['FUNCTION=inactivity_periods', 'venue_id=one'], 'needs venue_id=NUMBER'),
        (['FUNCTION=inactivity_periods', 'venue_id=1;x'], 'needs venue_id=NUMBER'),
        (['FUNCTION=available_benefits', 'venue_id=1'], 'needs person_id=NUMBER'),
    ],
)
def test_missing_or_wrong_id_is_one_line(make: Make, arguments: list[str], named: str) -> None:
    assert named in make.fail('explain', *arguments)


def test_id_that_no_bigint_holds_is_one_line(make: Make) -> None:
    line = make.fail('explain', 'FUNCTION=inactivity_periods', f'venue_id={10**19}')
    assert line == f'ERROR:  value "{10**19}" is out of range for type bigint at character 61'


def test_explain_changes_nothing(make: Make, tmp_path: Path) -> None:
    sql = 'delete from venue where id = :venue_id::bigint'
    finished = make.measure(tmp_path, 'explain', sql, venue_id='30')
    assert 'cannot execute DELETE in a read-only transaction' in finished.stderr


def test_pgbench_takes_ids_between_the_lowest_and_the_highest(make: Make, tmp_path: Path) -> None:
    # the sample data has the venues 1 to 30; another id divides by zero and ends pgbench
    sql = 'select 1 / (:venue_id::bigint between 1 and 30)::integer'
    finished = make.measure(tmp_path, 'pgbench', sql)
    assert finished.returncode == 0, finished.stderr
    (tmp_path / 'again').mkdir()
    narrower = make.measure(tmp_path / 'again', 'pgbench', sql.replace('30', '29'))
    assert 'division by zero' in narrower.stderr
