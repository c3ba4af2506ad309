"""The role of db/readonly_role.sql can run every report, and cannot write."""

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import errors

from api.config import Settings
from tests.support.commands import reason, run_check
from tests.support.postgres import run_file
from tests.support.project import ROOT
from tests.support.rows import Rows
from tests.support.service import ApiProcess
from tools.embedded import EmbeddedServer

FILE = ROOT / 'db' / 'readonly_role.sql'
ROLE = 'membership_benefits_api'
WRITES = [
    'insert into benefit_usage values (2, 1, 1, now())',
    "update benefit set title = ''",
    'delete from benefit_usage',
    'truncate benefit_usage',
    'drop table benefit_usage',
    'create index on benefit_usage (id)',
]
CREATIONS = ['create table made (id integer)', 'create temporary table made (id integer)']


@pytest.fixture
def role_url(server: EmbeddedServer, rows: Rows, database_url: str) -> Iterator[str]:
    """Run the file twice; returns the URL of the test's database for the role."""
    rows.benefit(1)
    rows.uses(1, '2024-07-01')
    run_file(server, FILE, database_url)
    run_file(server, FILE, database_url)
    yield database_url.replace('postgres@', f'{ROLE}@')
    rows.connection.execute(f'drop owned by {ROLE}')
    rows.connection.execute(f'drop role {ROLE}')


@pytest.fixture
def session(role_url: str) -> Iterator[psycopg.Connection]:
    """Return a session of the role."""
    with psycopg.connect(role_url, autocommit=True) as connection:
        yield connection


def test_role_gets_all_reports(role_url: str, start_api: Callable[..., ApiProcess]) -> None:
    api = start_api(DATABASE_URL=role_url)
    for path in ('top-benefits', '1/available-benefits?personId=1', '1/inactivity-periods'):
        assert len(api.get(f'/venues/{path}').json()) == 1
    api.stop()  # before the role is dropped


def test_file_that_runs_again_grants_and_leaves_what_a_dba_changed(
    server: EmbeddedServer, rows: Rows, database_url: str, role_url: str
) -> None:
    rows.connection.execute(f'alter role {ROLE} connection limit 200')
    rows.connection.execute(f"alter role {ROLE} set statement_timeout = '1min'")
    rows.connection.execute(f'revoke select on venue from {ROLE}')
    run_file(server, FILE, database_url)
    with psycopg.connect(role_url) as connection:
        found = connection.execute(
            "select rolconnlimit, current_setting('statement_timeout'),"
            " has_table_privilege('venue', 'select') from pg_roles where rolname = current_user"
        ).fetchone()
    assert found == (200, '1min', True)


def test_check_finds_what_is_not_granted(rows: Rows, role_url: str) -> None:
    rows.connection.execute(f'revoke select (id) on person from {ROLE}')
    told = reason(run_check(role_url))
    assert '/available_benefits.sql: permission denied for table person (' in told


def test_role_cannot_write(session: psycopg.Connection) -> None:
    for write in WRITES + CREATIONS:
        with pytest.raises((errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
            session.execute(write)
    session.execute('set default_transaction_read_only = off')
    for write in WRITES:
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute(write)


def test_optional_revokes_take_away_what_everybody_may(
    rows: Rows, session: psycopg.Connection
) -> None:
    revokes = re.findall(r'^-- (.*revoke .*;)$', FILE.read_text(), re.MULTILINE)
    assert len(revokes) == 2
    for revoke in revokes:
        rows.connection.execute(revoke)
    session.execute('set default_transaction_read_only = off')
    for creation in CREATIONS:
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute(creation)


def test_role_reads_no_names_of_people(session: psycopg.Connection) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        session.execute('select name from person')


def test_sessions_start_with_the_settings_of_the_role(session: psycopg.Connection) -> None:
    found = session.execute("select name, setting from pg_settings where source = 'user'")
    assert dict(found.fetchall()) == {
        'default_transaction_read_only': 'on',
        'statement_timeout': '5000',
        'idle_in_transaction_session_timeout': '10000',
        'TimeZone': 'UTC',
    }


def test_role_has_no_rights_beyond_logging_in(session: psycopg.Connection) -> None:
    rights = session.execute(
        'select rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,'
        ' rolconnlimit from pg_roles where rolname = current_user'
    ).fetchone()
    # two instances on eight cores
    limit = 2 * (8 * (Settings().pool_size + Settings().slow_reports_at_once) + 1)
    assert rights == (True, False, False, False, False, False, limit)
