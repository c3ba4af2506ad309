"""The reports work on other schemas: other types, views, partitions, another search path."""

from collections.abc import Callable

import pytest

from tests.support.rows import Rows, body
from tests.support.service import ApiProcess

T = '2024-07-01T12:00:00Z'
VALUES = {'venue_id': 1, 'person_id': 1, 'timestamp': T}
PATHS = {
    'top_benefits': f'/venues/top-benefits?timestamp={T}',
    'available_benefits': f'/venues/1/available-benefits?personId=1&timestamp={T}',
    'inactivity_periods': f'/venues/1/inactivity-periods?timestamp={T}',
}
TABLES = ['venue', 'person', 'benefit', 'benefit_usage']
# the statements that change the tests' own schema to another one
SCHEMAS = {
    'enum': [
        "create type recurrence as enum ('day', 'week', 'month', 'year')",
        'alter table benefit alter recurrence type recurrence using recurrence::recurrence',
    ],
    'char': ['alter table benefit alter recurrence type char(10), alter title type varchar(99)'],
    'bigint': [
        *(f'alter table {table} alter id type bigint' for table in TABLES),
        'alter table benefit alter "venueId" type bigint',
        'alter table benefit_usage alter "personId" type bigint, alter "benefitId" type bigint',
    ],
    'views': [
        statement
        for table in TABLES
        for statement in (
            f'alter table {table} rename to stored_{table}',
            f'create view {table} as select * from stored_{table}',
        )
    ],
    'search_path': [
        'create schema members',
        *(f'alter table {table} set schema members' for table in TABLES),
        "do $$ begin execute format('alter database %I set search_path = members',"
        ' current_database()); end $$',
    ],
}


@pytest.mark.parametrize('schema', SCHEMAS)
def test_answers_are_the_same_on_another_schema(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess], schema: str
) -> None:
    for id_, recurrence in enumerate(['day', 'week', 'month', 'year'], start=1):
        rows.benefit(id_, recurrence)
        rows.uses(id_, '2024-02-01', '2024-05-31 23:00', f'2024-06-{30 - id_}')
    rows.uses(2, '2024-06-25')
    before = {name: body(rows, name, **VALUES) for name in PATHS}
    assert all(before.values())
    assert {benefit['recurrence'] for benefit in before['available_benefits']} == {'day'}
    for statement in SCHEMAS[schema]:
        rows.connection.execute(statement)
    api = start_api(DATABASE_URL=database_url)
    assert {name: api.get(path).json() for name, path in PATHS.items()} == before
