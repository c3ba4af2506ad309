"""Responses are UTF-8 for every encoding of the database, the role and the environment."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.support.postgres import cloned
from tests.support.rows import open_rows
from tests.support.service import AVAILABLE, ApiProcess
from tools.embedded import EmbeddedServer, load

TITLES = {'UTF8': 'Café 50 €', 'WIN1252': 'Café 50 €', 'EUC_JP': '生ビール'}


@pytest.fixture(params=TITLES)
def encoding(request: pytest.FixtureRequest) -> str:
    """Return the name of an encoding."""
    return request.param


@pytest.fixture
def database_url(server: EmbeddedServer, encoding: str) -> Iterator[str]:
    """Return the URL of a database in the encoding, with a benefit that has a title."""
    with cloned(server, f"encoding '{encoding}' template template0") as url:
        load(url, 'schema.sql', 'indexes.sql')
        with open_rows(f'{url}&client_encoding=UTF8') as rows:
            insert = "insert into benefit values (1, 1, %s, 'day')"
            rows.connection.execute(insert, [TITLES[encoding]])
        yield url


def assert_is_utf8(api: ApiProcess, encoding: str) -> None:
    answer = api.get(AVAILABLE)
    assert answer.status_code == 200
    assert TITLES[encoding].encode() in answer.content
    assert answer.json()[0]['title'] == TITLES[encoding]


@pytest.mark.slow
@pytest.mark.parametrize('session_settings', ['true', 'false'])
def test_of_the_database_the_environment_and_the_url(
    database_url: str, encoding: str, start_api: Callable, session_settings: str
) -> None:
    for url in (database_url, f'{database_url}&client_encoding={encoding}'):
        api = start_api(
            DATABASE_URL=url, PGCLIENTENCODING=encoding, API_SESSION_SETTINGS=session_settings
        )
        assert_is_utf8(api, encoding)


def test_of_the_role(database_url: str, encoding: str, start_api: Callable) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute('create role foreigner login')
        admin.execute('grant select on all tables in schema public to foreigner')
        admin.execute(f"alter role foreigner set client_encoding = '{encoding}'")
        try:
            api = start_api(DATABASE_URL=database_url.replace('postgres@', 'foreigner@'))
            assert_is_utf8(api, encoding)
            api.stop()
        finally:
            admin.execute('drop owned by foreigner')
            admin.execute('drop role foreigner')
