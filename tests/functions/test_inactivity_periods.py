"""The rules of db/functions/inactivity_periods.sql."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.rows import Rows, body

T = datetime(2024, 7, 1, 12, tzinfo=UTC)
OPENS = datetime(2024, 1, 3, 12, tzinfo=UTC)
THRESHOLDS = {'day': 14, 'week': 21, 'month': 30}  # days
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

Period = tuple[datetime, datetime]


def inactive(rows: Rows, timestamp: datetime | None = T) -> dict[int, list[Period]]:
    found = body(rows, 'inactivity_periods', venue_id=1, timestamp=timestamp)
    return {
        benefit['benefitId']: [
            (datetime.fromisoformat(p['startTime']), datetime.fromisoformat(p['endTime']))
            for p in benefit['inactivityPeriods']
        ]
        for benefit in found
    }


def use(rows: Rows, benefit: int, *moments: datetime) -> None:
    rows.uses(benefit, *(moment.replace(tzinfo=None) for moment in moments))


def use_every(rows: Rows, benefit: int, start: datetime, end: datetime, step: timedelta) -> None:
    """Use a benefit from start to end, at most a step apart."""
    while start < end:
        use(rows, benefit, start)
        start += step
    use(rows, benefit, end)


def test_answer_has_periods_with_an_offset_and_full_precision(rows: Rows) -> None:
    rows.benefit(5)
    use(rows, 5, T - 16 * DAY + MICROSECOND)
    use_every(rows, 5, OPENS, T - 20 * DAY, 5 * DAY)
    assert body(rows, 'inactivity_periods', venue_id=1, timestamp=T) == [
        {
            'benefitId': 5,
            'inactivityPeriods': [
                {
                    'startTime': '2024-06-15T12:00:00.000001+00:00',
                    'endTime': '2024-07-01T12:00:00+00:00',
                }
            ],
        }
    ]


@pytest.mark.parametrize('recurrence', THRESHOLDS)
def test_benefit_never_used_is_inactive_for_the_whole_window(rows: Rows, recurrence: str) -> None:
    rows.benefit(1, recurrence)
    assert inactive(rows) == {1: [(OPENS, T)]}


@pytest.mark.parametrize(('recurrence', 'days'), THRESHOLDS.items())
def test_exactly_the_threshold_counts_and_a_microsecond_less_does_not(
    rows: Rows, recurrence: str, days: int
) -> None:
    start, end = OPENS + 42 * DAY, OPENS + (42 + days) * DAY
    for id_, next_use in ((1, end), (2, end - MICROSECOND)):
        rows.benefit(id_, recurrence)
        use_every(rows, id_, OPENS, start, 5 * DAY)
        use_every(rows, id_, next_use, T, 5 * DAY)
    assert inactive(rows) == {1: [(start, end)]}


def test_silence_before_the_first_use_starts_with_the_window(rows: Rows) -> None:
    rows.benefit(1)
    use(rows, 1, OPENS - DAY)
    use_every(rows, 1, OPENS + 14 * DAY, T, 5 * DAY)
    assert inactive(rows) == {1: [(OPENS, OPENS + 14 * DAY)]}


def test_silence_that_still_runs_ends_at_the_moment(rows: Rows) -> None:
    rows.benefit(1)
    use_every(rows, 1, OPENS, T - 14 * DAY, 5 * DAY)
    use(rows, 1, T + MICROSECOND)
    assert inactive(rows) == {1: [(T - 14 * DAY, T)]}


def test_single_use_parts_the_window_in_two(rows: Rows) -> None:
    rows.benefit(1, 'month')
    use(rows, 1, OPENS + 50 * DAY)
    assert inactive(rows) == {1: [(OPENS, OPENS + 50 * DAY), (OPENS + 50 * DAY, T)]}


def test_periods_that_touch_stay_two(rows: Rows) -> None:
    rows.benefit(1)
    use_every(rows, 1, OPENS, T - 60 * DAY, 5 * DAY)
    use(rows, 1, T - 40 * DAY, T - 20 * DAY, T - 10 * DAY)
    assert inactive(rows) == {1: [(T - 60 * DAY, T - 40 * DAY), (T - 40 * DAY, T - 20 * DAY)]}


def test_many_uses_in_a_burst_do_not_hide_the_silence_after_it(rows: Rows) -> None:
    rows.benefit(1, 'week')
    use_every(rows, 1, OPENS, OPENS + DAY, timedelta(minutes=30))
    use_every(rows, 1, OPENS + 30 * DAY, T, 10 * DAY)
    assert inactive(rows) == {1: [(OPENS + DAY, OPENS + 30 * DAY)]}


def test_recurrence_decides_the_threshold(rows: Rows) -> None:
    for id_, recurrence in enumerate(THRESHOLDS, start=1):
        rows.benefit(id_, recurrence)
        use_every(rows, id_, OPENS, T - 20 * DAY, 5 * DAY)
    assert inactive(rows) == {1: [(T - 20 * DAY, T)]}


def test_recurrence_without_a_rule_is_left_out(rows: Rows) -> None:
    rows.benefit(1, 'year')
    assert inactive(rows) == {}


def test_benefits_are_ordered_by_id_and_only_the_venues(rows: Rows) -> None:
    rows.venues(2)
    rows.benefit(3)
    rows.benefit(1)
    rows.benefit(2, venue=2)
    assert list(inactive(rows)) == [1, 3]


def test_periods_are_in_order_however_the_server_groups_them(rows: Rows) -> None:
    begin = datetime(2024, 1, 10)
    for benefit in range(1, 8):
        rows.benefit(benefit)
        rows.uses(benefit, *(begin + timedelta(days=15 * n, hours=benefit) for n in range(12)))
    # otherwise, the rows happen to be in this order
    rows.connection.execute('set enable_hashagg = off')
    found = body(rows, 'inactivity_periods', venue_id=1, timestamp='2024-07-01T00:00:00Z')
    assert len(found) == 7
    for benefit in found:
        starts = [period['startTime'] for period in benefit['inactivityPeriods']]
        assert len(starts) > 9
        assert starts == sorted(starts)


def test_default_moment_is_the_databases_now(rows: Rows) -> None:
    rows.benefit(1)
    [(start, end)] = inactive(rows, None)[1]
    assert end - start == 180 * DAY
    assert abs(end - datetime.now(UTC)) < timedelta(minutes=5)


def test_last_moment_of_the_calendar_has_a_report(rows: Rows) -> None:
    rows.benefit(1)
    moment = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert inactive(rows, moment) == {1: [(moment - 180 * DAY, moment)]}


def test_session_settings_change_no_instant(rows: Rows) -> None:
    rows.benefit(1)
    rows.connection.execute("set timezone = 'Pacific/Kiritimati'")
    rows.connection.execute("set datestyle = 'German'")
    rows.connection.execute("set intervalstyle = 'sql_standard'")
    assert inactive(rows) == {1: [(OPENS, T)]}


@pytest.mark.parametrize(('venue', 'missing'), [(1, None), (2, 'venue_id')])
def test_row_names_what_does_not_exist(rows: Rows, venue: int, missing: str | None) -> None:
    assert rows.answer('inactivity_periods', venue_id=venue) == ([], missing)
