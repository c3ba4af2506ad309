"""`make compare` finds small mistakes in a function file, and takes an equal file for equal."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults.test_replicas import Standby
from tests.support.commands import clean_environment
from tests.support.machine import system_program
from tests.support.postgres import cloned, program
from tests.support.project import ROOT, copy_project, edit
from tests.support.rows import Rows
from tools.embedded import EmbeddedServer, load

AVAILABLE, INACTIVITY, TOP = 'available_benefits', 'inactivity_periods', 'top_benefits'
pytestmark = pytest.mark.slow
A_BENEFIT = r'body, id \d+: old: (\{"id": .* new: absent|absent new: \{"id": )'
TOP_BENEFITS = r'body, venueId \d+, topBenefits180Days'


class Compare:
    """Runs the tool on a database, in a copy of the project; `mine` is a file to compare with."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.project = copy_project(folder)
        self.mine = folder / 'mine.sql'

    def file(self, name: str) -> Path:
        """Return a function file."""
        return self.project / 'db' / 'functions' / f'{name}.sql'

    def edit_mine(self, name: str, old: str, new: str) -> None:
        """Write a function file with another text in one place."""
        self.mine.write_text(self.file(name).read_text())
        edit(self.mine, old, new)

    def command(self, name: str, *options: str, **environment: str) -> dict:
        """Return what subprocess needs to compare a function file."""
        return {
            'args': [sys.executable, '-m', 'tools.compare', name, *options],
            'cwd': self.project,
            'env': clean_environment() | {'DATABASE_URL': self.url} | environment,
            'stdout': subprocess.PIPE,
            'stderr': subprocess.PIPE,
            'text': True,
        }

    def lines(self, status: int, name: str, *options: str, **environment: str) -> list[str]:
        """Compare a function file, by default with `mine`; returns the lines printed."""
        command = self.command(name, *(options or [str(self.mine)]), **environment)
        finished = subprocess.run(**command, check=False)
        assert finished.returncode == status, finished
        [printed] = filter(None, [finished.stdout, finished.stderr])  # never on both
        return printed.splitlines()


@pytest.fixture(scope='module')
def url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of a database with a part of the sample data, so that a report is quick.

    Its encoding is LATIN1: the queries of the tool must not need UTF-8 in the server.
    """
    with cloned(server, "template template0 encoding 'LATIN1'") as url:
        load(url, 'schema.sql', 'sample_data.sql', 'indexes.sql')
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute('delete from benefit_usage where "personId" > 60')
            connection.execute('vacuum (analyze) benefit_usage')
        yield url


@pytest.fixture
def compare(url: str, tmp_path: Path) -> Compare:
    """Return the tool on that database."""
    return Compare(url, tmp_path)


@pytest.mark.parametrize(
    ('name', 'old', 'new', 'shown'),
    [
        (AVAILABLE, '> params.as_of - ', '>= params.as_of - ', A_BENEFIT),
        (AVAILABLE, "'24 hours'", "'25 hours'", A_BENEFIT),
        (AVAILABLE, "then 'person_id'", 'then null', ' missing: old: "person_id" new: null'),
        (INACTIVITY, '>= probed_gaps', '> probed_gaps', r'benefitId \d+.*: old: {.* new: absent'),
        (INACTIVITY, 'by significant_gaps.start_time', r'\g<0> desc', r'Periods: old: \[.* new: '),
        (TOP, '"usageTimestamp" > ', '"usageTimestamp" >= ', f'{TOP_BENEFITS}.*: old: '),
        (TOP, 'benefit_id asc', 'benefit_id desc', f'{TOP_BENEFITS}(, benefitId \\d+)?: old: '),
        (TOP, 'left join', 'inner join', r'body, venueId \d+: old: {"venueId": .* new: absent'),
        (TOP, "'[]'", "'[ ]'", 'The JSON is equal, but its bytes differ.'),
    ],
)
def test_mistake_is_found_and_its_smallest_difference_shown(
    compare: Compare, name: str, old: str, new: str, shown: str
) -> None:
    compare.edit_mine(name, old, new.replace(r'\g<0>', old))
    verdict, *rest = compare.lines(1, name)
    assert re.match(r'[1-9]\d* of 200 answers differ; ', verdict)
    told = ' '.join(line.strip() for line in rest)
    assert re.search(shown, told)


def test_unchanged_file_is_reported(compare: Compare) -> None:
    verdict, *_ = compare.lines(0, AVAILABLE, f'db/functions/{AVAILABLE}.sql', '--count', '20')
    assert verdict.startswith('20 of 20 answers equal; ')
    assert verdict.endswith('; both versions are the same')


@pytest.mark.parametrize('name', [AVAILABLE, INACTIVITY])
def test_plain_form_is_equal_and_has_another_plan(compare: Compare, name: str) -> None:
    verdict, _, *rest = compare.lines(0, name, f'db/plain/{name}.sql')
    cost = r'(about as fast|\d+\.\d times as (fast|slow)); \d+\.\d times the buffers'
    assert re.fullmatch(rf'200 of 200 answers equal; {cost}', verdict)
    assert rest[:2] == [f'old: db/functions/{name}.sql', f'new: db/plain/{name}.sql']
    assert re.search(r' nodes of custom plans: fewer \w.*; more \w', ' '.join(rest))


def test_rewrite_that_reads_more_is_equal_and_costs_more(compare: Compare) -> None:
    compare.edit_mine(AVAILABLE, '."personId" = ', '."personId" + 0 = ')
    edit(compare.mine, '."benefitId" = ', '."benefitId" + 0 = ')
    verdict, *rest = compare.lines(0, AVAILABLE)
    assert float(re.search(r'([\d.]+) times the buffers', verdict)[1]) > 2
    old, new = (line.replace(',', '').split() for line in rest if line.startswith('custom '))
    assert int(new[5]) > 2 * int(old[5])
    assert re.search('fewer .*_idx.*; more .*Plain Aggregate', ' '.join(rest))


def test_both_versions_see_one_snapshot_and_one_time(
    rows: Rows, database_url: str, compare: Compare
) -> None:
    seen = "'time', now(), 'uses', (select count(*) from benefit_usage), 'venueId',"
    edit(compare.file(TOP), "'venueId',", seen)
    compare.mine.write_text(compare.file(TOP).read_text())
    compare.url = database_url
    rows.benefit(1)
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            rows.uses(1, 'now')

    thread = threading.Thread(target=write)
    thread.start()
    try:
        verdict, *_ = compare.lines(0, TOP)
    finally:
        is_over.set()
        thread.join()
    assert re.match(r'(\d\d+) of \1 answers equal; ', verdict)


def shell(compare: Compare, command: str, **environment: str) -> str:
    """Run a shell command in the copy of the project; returns what it prints."""
    context = {'cwd': compare.project, 'env': clean_environment() | environment, 'text': True}
    return subprocess.check_output(command, shell=True, **context)


def test_commands_reproduce_both_sides(server: EmbeddedServer, compare: Compare) -> None:
    system_program('git', 'git')
    who = 'git config user.name Test; git config user.email test@example.com'
    shell(compare, f'git init -q; {who}; git add -A; git commit -qm Begin')
    edit(compare.file(INACTIVITY), "'14 days'", "'15 days'")
    printed = '\n'.join(compare.lines(1, INACTIVITY, 'HEAD', '--count', '50'))
    shown = int(re.search(r'^  body, benefitId (\d+)', printed, re.MULTILINE)[1])
    path = f'{Path(program(server, "psql")).parent}:{os.environ["PATH"]}'
    commands = re.findall(r'^(?:git show|cat) (?:.*\\\n)+.*', printed, re.MULTILINE)
    rows = [shell(compare, each, DATABASE_URL=compare.url, PATH=path) for each in commands]
    bodies = [json.loads(row.rpartition('|')[0]) for row in rows]
    old, new = ({each['benefitId']: each for each in body}.get(shown) for body in bodies)
    assert old != new


@pytest.mark.parametrize(
    ('old', 'new', 'told'),
    [
        ('select max(', 'select maxi(', r'mine\.sql line \d+: function maxi\(.*\) does not exist'),
        ('with params as', 'with params has', r'mine\.sql line \d+: syntax error at or near'),
        (':person_id::bigint', ':person_id::text', r'mine\.sql: must have the parameters of db/'),
        (f'{AVAILABLE}(', 'mine(', rf'mine\.sql line 1: must be -- name: {AVAILABLE}\('),
        ('cooldowns (', 'gone as (delete from venue returning id), cooldowns (', 'read-only trans'),
    ],
)
def test_broken_version_is_one_line(compare: Compare, old: str, new: str, told: str) -> None:
    compare.edit_mine(AVAILABLE, old, new)
    [line] = compare.lines(2, AVAILABLE)
    assert re.search(told, line)


def test_unknown_revision_is_named(compare: Compare) -> None:
    system_program('git', 'git')
    *_, line = compare.lines(2, TOP, 'nope')
    assert line.endswith(f'git cannot show nope:./db/functions/{TOP}.sql')


def test_timeout_of_a_version_names_its_file_and_the_setting(compare: Compare) -> None:
    compare.edit_mine(TOP, 'null::text', '(select null::text from pg_sleep(60))')
    warning, line = compare.lines(2, TOP, API_STATEMENT_TIMEOUT_S='1')
    assert 'mine.sql exceeds statement_timeout_s' in warning
    assert re.search(r"mine.sql, {'timestamp': .*}: canceling statement due to statement", line)


def test_role_that_may_only_read_on_a_hot_standby(compare: Compare) -> None:
    with EmbeddedServer() as primary:
        load(primary.url(), 'schema.sql', 'sample_data.sql', 'indexes.sql')
        with psycopg.connect(primary.url()) as connection:
            connection.execute((ROOT / 'db' / 'readonly_role.sql').read_bytes())
        with Standby(primary) as standby:
            standby.catch_up()
            compare.url = standby.url().replace('postgres@', 'membership_benefits_api@')
            assert compare.lines(0, AVAILABLE, f'db/plain/{AVAILABLE}.sql')


def test_make_prints_markdown_of_80_columns(url: str) -> None:
    bin_ = Path(sys.executable).parent
    words = f'FUNCTION={AVAILABLE} WITH=db/plain/{AVAILABLE}.sql COUNT=30 SEED=7 FORMAT=markdown'
    verdict, *rest = subprocess.check_output(
        ['make', '-o', '.venv/installed', f'BIN={bin_}', 'compare', 'TIMEOUT=60', *words.split()],
        cwd=ROOT,
        env=clean_environment() | {'DATABASE_URL': url},
        text=True,
    ).splitlines()
    assert re.fullmatch(r'\*\*30 of 30 answers equal; .*\*\*', verdict)
    assert (rest[0], rest[1], rest[-1]) == ('', '```text', '```')
    assert re.search('^30 sets of values, seed 7$', '\n'.join(rest), re.MULTILINE)
    assert re.search('^warning: every table has fewer', '\n'.join(rest), re.MULTILINE)
    assert max(map(len, [verdict, *rest])) <= 80
