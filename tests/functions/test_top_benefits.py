"""The rules of db/functions/top_benefits.sql."""

import pytest

from tests.functions.conftest import SEVERAL_SERVERS
from tests.support.rows import Rows, body

# there is no plain form of top_benefits
pytestmark = pytest.mark.parametrize('rows', ['functions', *SEVERAL_SERVERS], indirect=True)

T = '2024-07-01T12:00:00+00:00'
WINDOW_OPENS = '2024-01-03 12:00:00'  # 180 days of 24 hours before T
JUST_INSIDE = '2024-01-03 12:00:00.000001'


def top(rows: Rows, timestamp: str | None = T) -> list:
    return body(rows, 'top_benefits', timestamp=timestamp)


def test_no_venue_gives_an_empty_list(rows: Rows) -> None:
    rows.connection.execute('delete from venue')
    assert top(rows) == []


def test_benefits_are_listed_most_used_first(rows: Rows) -> None:
    rows.benefit(1)
    rows.benefit(2)
    rows.uses(1, '2024-06-01')
    rows.uses(2, '2024-06-01', '2024-06-02')
    assert top(rows) == [
        {
            'venueId': 1,
            'topBenefits180Days': [
                {'benefitId': 2, 'usageCount': 2},
                {'benefitId': 1, 'usageCount': 1},
            ],
        }
    ]


def test_at_most_three_are_listed_and_ties_go_to_the_lower_id(rows: Rows) -> None:
    for id_ in (4, 2, 3, 1):
        rows.benefit(id_)
        rows.uses(id_, '2024-06-01')
    [venue] = top(rows)
    assert [found['benefitId'] for found in venue['topBenefits180Days']] == [1, 2, 3]


def test_venues_are_ordered_by_id_and_do_not_share_their_three(rows: Rows) -> None:
    rows.venues(3, 2)
    for id_, venue in ((30, 3), (31, 3), (32, 3), (33, 3), (20, 2), (10, 1)):
        rows.benefit(id_, venue=venue)
        rows.uses(id_, '2024-06-01')
    found = {
        venue['venueId']: [benefit['benefitId'] for benefit in venue['topBenefits180Days']]
        for venue in top(rows)
    }
    assert list(found.items()) == [(1, [10]), (2, [20]), (3, [30, 31, 32])]


def test_venue_without_uses_has_an_empty_list(rows: Rows) -> None:
    rows.venues(2)
    rows.benefit(1, venue=2)
    assert top(rows) == [
        {'venueId': 1, 'topBenefits180Days': []},
        {'venueId': 2, 'topBenefits180Days': []},
    ]


def test_window_excludes_its_first_moment_and_includes_its_last(rows: Rows) -> None:
    for id_ in (1, 2, 3, 4):
        rows.benefit(id_)
    rows.uses(1, WINDOW_OPENS)
    rows.uses(2, JUST_INSIDE)
    rows.uses(3, '2024-07-01 12:00:00')
    rows.uses(4, '2024-07-01 12:00:00.000001')
    [venue] = top(rows)
    assert [found['benefitId'] for found in venue['topBenefits180Days']] == [2, 3]


def test_benefit_of_any_recurrence_counts(rows: Rows) -> None:
    rows.benefit(1, 'fortnight')
    rows.uses(1, '2024-06-01')
    assert top(rows)[0]['topBenefits180Days'] == [{'benefitId': 1, 'usageCount': 1}]


def test_default_moment_is_the_databases_now(rows: Rows) -> None:
    rows.benefit(1)
    rows.connection.execute(
        'insert into benefit_usage ("personId", "benefitId", "usageTimestamp") values'
        " (1, 1, now() at time zone 'UTC' - interval '180 days' + interval '1 hour'),"
        " (1, 1, now() at time zone 'UTC' - interval '180 days' - interval '1 hour'),"
        " (1, 1, now() at time zone 'UTC' + interval '1 hour')"
    )
    assert top(rows, None)[0]['topBenefits180Days'] == [{'benefitId': 1, 'usageCount': 1}]


def test_moment_in_the_future_looks_back_from_there(rows: Rows) -> None:
    rows.benefit(1)
    rows.uses(1, '2999-06-01')
    [venue] = top(rows, '2999-07-01T00:00:00+00:00')
    assert venue['topBenefits180Days'] == [{'benefitId': 1, 'usageCount': 1}]


def test_session_time_zone_changes_nothing(rows: Rows) -> None:
    rows.benefit(1)
    rows.uses(1, JUST_INSIDE)
    rows.connection.execute("set timezone = 'Pacific/Kiritimati'")
    assert top(rows)[0]['topBenefits180Days'] == [{'benefitId': 1, 'usageCount': 1}]
