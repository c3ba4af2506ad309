"""The rules of db/functions/available_benefits.sql."""

from datetime import datetime, timedelta

import pytest

from tests.support.rows import Rows, body

USED = datetime.fromisoformat('2024-02-28 10:00:00+00:00')
COOLDOWNS = {'day': 24, 'week': 168, 'month': 720}  # hours
MICROSECOND = timedelta(microseconds=1)


def available(rows: Rows, timestamp: datetime | None = USED, person: int = 1) -> list[int]:
    found = body(rows, 'available_benefits', venue_id=1, person_id=person, timestamp=timestamp)
    return [benefit['id'] for benefit in found]


def use(rows: Rows, benefit: int, moment: datetime, **kwargs: int) -> None:
    rows.uses(benefit, moment.replace(tzinfo=None), **kwargs)


def test_answer_has_the_benefits_fields(rows: Rows) -> None:
    rows.connection.execute("insert into benefit values (7, 1, 'Corona beer $6', 'day')")
    answer = body(rows, 'available_benefits', venue_id=1, person_id=1, timestamp=USED)
    assert answer == [{'id': 7, 'venueId': 1, 'title': 'Corona beer $6', 'recurrence': 'day'}]


def test_benefits_never_used_are_available_and_ordered_by_id(rows: Rows) -> None:
    for id_ in (3, 1, 2):
        rows.benefit(id_)
    assert available(rows) == [1, 2, 3]


@pytest.mark.parametrize('recurrence', COOLDOWNS)
def test_benefit_is_unavailable_from_the_moment_of_its_use(rows: Rows, recurrence: str) -> None:
    rows.benefit(1, recurrence)
    use(rows, 1, USED)
    assert available(rows, USED - MICROSECOND) == [1]
    assert available(rows, USED) == []


@pytest.mark.parametrize(('recurrence', 'hours'), COOLDOWNS.items())
def test_benefit_is_available_again_exactly_when_the_cooldown_ends(
    rows: Rows, recurrence: str, hours: int
) -> None:
    rows.benefit(1, recurrence)
    use(rows, 1, USED)
    end = USED + timedelta(hours=hours)
    assert available(rows, end - MICROSECOND) == []
    assert available(rows, end) == [1]


def test_latest_use_decides(rows: Rows) -> None:
    rows.benefit(1, 'week')
    use(rows, 1, USED - timedelta(days=6))
    use(rows, 1, USED - timedelta(days=20))
    assert available(rows) == []
    assert available(rows, USED + timedelta(days=1)) == [1]


def test_use_after_the_moment_does_not_count(rows: Rows) -> None:
    rows.benefit(1)
    use(rows, 1, USED + timedelta(hours=1))
    use(rows, 1, USED - timedelta(days=2))
    assert available(rows) == [1]


def test_use_after_the_moment_does_not_hide_one_before_it(rows: Rows) -> None:
    rows.benefit(1)
    use(rows, 1, USED + timedelta(hours=1))
    use(rows, 1, USED - timedelta(hours=1))
    assert available(rows) == []


def test_other_peoples_uses_do_not_count(rows: Rows) -> None:
    rows.people(2)
    rows.benefit(1)
    use(rows, 1, USED, person=2)
    assert available(rows) == [1]
    assert available(rows, person=2) == []


def test_uses_of_other_benefits_do_not_count(rows: Rows) -> None:
    rows.benefit(1)
    rows.benefit(2)
    use(rows, 2, USED)
    assert available(rows) == [1]


def test_benefits_of_other_venues_are_not_offered(rows: Rows) -> None:
    rows.venues(2)
    rows.benefit(1, venue=2)
    assert available(rows) == []


@pytest.mark.parametrize('recurrence', ['year', 'Day', '', 'days'])
def test_recurrence_without_a_rule_is_not_offered(rows: Rows, recurrence: str) -> None:
    rows.benefit(1, recurrence)
    assert available(rows) == []


def test_default_moment_is_the_databases_now(rows: Rows) -> None:
    for id_ in (1, 2):
        rows.benefit(id_)
    rows.connection.execute(
        'insert into benefit_usage ("personId", "benefitId", "usageTimestamp") values'
        " (1, 1, now() at time zone 'UTC' - interval '23 hours'),"
        " (1, 2, now() at time zone 'UTC' - interval '25 hours')"
    )
    assert available(rows, None) == [2]


def test_session_time_zone_changes_nothing(rows: Rows) -> None:
    rows.benefit(1)
    use(rows, 1, USED)
    rows.connection.execute("set timezone = 'Pacific/Kiritimati'")
    assert available(rows, USED - MICROSECOND) == [1]
    assert available(rows, USED) == []


def test_daylight_saving_does_not_stretch_a_day(rows: Rows) -> None:
    rows.benefit(1)
    rows.connection.execute("set timezone = 'Europe/Helsinki'")
    before_change = datetime.fromisoformat('2024-03-30 22:00:00+00:00')
    use(rows, 1, before_change)
    assert available(rows, before_change + timedelta(hours=24) - MICROSECOND) == []
    assert available(rows, before_change + timedelta(hours=24)) == [1]


@pytest.mark.parametrize(
    ('venue', 'person', 'missing'),
    [(1, 1, None), (2, 1, 'venue_id'), (1, 2, 'person_id'), (2, 2, 'venue_id')],
)
def test_row_names_what_does_not_exist(
    rows: Rows, venue: int, person: int, missing: str | None
) -> None:
    row = rows.answer('available_benefits', venue_id=venue, person_id=person)
    assert row == ([], missing)
