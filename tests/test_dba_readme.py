"""The commands of db/README.md work as written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.pages import blocks, commands
from tests.support.commands import clean_environment, run
from tests.support.machine import missing, system_program
from tests.support.postgres import cloned, program
from tests.support.project import ROOT
from tests.support.service import ApiProcess
from tools.embedded import EmbeddedServer, load

README = ROOT / 'db' / 'README.md'
# make as in the examples, but with the packages of this environment
MAKE = f'make() {{ command make -o .venv/installed BIN={Path(sys.executable).parent} "$@"; }}\n'


@pytest.fixture(scope='module')
def own_url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of a database with the sample data that the commands may change."""
    with cloned(server) as url:
        load(url, 'sample_data.sql')
        yield url
        with psycopg.connect(url, autocommit=True) as connection:
            if connection.execute("select from pg_roles where rolname ~ '^member'").fetchone():
                connection.execute('drop owned by membership_benefits_api')
                connection.execute('drop role membership_benefits_api')


@pytest.mark.slow
@pytest.mark.parametrize('command', [line for line in commands(README) if r'\password' not in line])
def test_command(server: EmbeddedServer, own_url: str, tmp_path: Path, command: str) -> None:
    for name in ('psql', 'pgbench'):
        program(server, name)
    if 'PICTURE=' in command:
        system_program('npm', 'npm')
    quick = re.sub(r'(-T |SECONDS=|seconds=)5', r'\g<1>1', command)
    quick = quick.replace('PICTURE=', f'PICTURE={tmp_path}/')
    finished = subprocess.run(
        ['sh', '-e', '-c', MAKE + quick],
        cwd=ROOT,
        env=clean_environment()
        | {'DATABASE_URL': own_url, 'PATH': f'{server.binaries}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if 'npm cannot download' in finished.stderr:
        missing(finished.stderr)
    assert finished.returncode == 0, finished.stderr
    assert 'ERROR' not in finished.stderr


def test_lines_in_psql_show_the_answer_and_the_same_with_a_member_a_line(
    server: EmbeddedServer, own_url: str
) -> None:
    [lines] = blocks('psql', README)
    printed = subprocess.run(
        [program(server, 'psql'), own_url, '-X', '-q', '-v', 'ON_ERROR_STOP=1'],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    answer, pretty = printed.split('|\n')
    assert json.loads(answer) == json.loads(pretty) != []
    assert len(answer.splitlines()) == 1
    assert '\n        "recurrence": "day"\n' in pretty


def test_query_finds_the_sessions_of_the_service(
    server: EmbeddedServer, own_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    [query] = blocks('sql', README)
    api = start_api(DATABASE_URL=own_url)
    assert api.get('/venues/top-benefits').status_code == 200
    printed = run(program(server, 'psql'), own_url, '-X', '-At', '-c', query)
    assert re.search(r'^membership-benefits-api/.*-- name: top_benefits\(', printed, re.MULTILINE)
