-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a given time:
-- the plain form.
--
-- Serves       GET /venues/{venueId}/inactivity-periods
-- Returns      one row. body (json): an array with one element per benefit that has such a period, ordered by
--              id. missing (text): 'venue_id' if that id does not exist, else null. If not null, ignore body
-- Performance  Without an index, it reads all uses once; with one, the uses of the venue in the 180 days

-- one row: the arguments. A null timestamp means now. as_of is in UTC without a time zone
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the length of the report
constants as (
    select interval '180 days' as report_length
),

-- one row per supported recurrence: the minimum length of a significant gap
thresholds (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per benefit of the venue with a supported recurrence: its threshold, and the start and end of the
-- report
reported as (
    select
        benefit.id as benefit_id,
        thresholds.threshold,
        params.as_of - constants.report_length as report_start,
        params.as_of as report_end
    from params
    cross join constants
    inner join benefit on params.venue_id = benefit."venueId"
    inner join thresholds on benefit.recurrence::text = thresholds.recurrence
),

-- one row per end of a gap: each use of a benefit in the 180 days, and the end of the report
ends as (
    select
        reported.*,
        benefit_usage."usageTimestamp" as end_time
    from reported
    inner join benefit_usage
        on
            reported.benefit_id = benefit_usage."benefitId"
            and reported.report_start < benefit_usage."usageTimestamp"
            and reported.report_end >= benefit_usage."usageTimestamp"
    union all
    select
        reported.*,
        reported.report_end as end_time
    from reported
),

-- one row per gap: it starts at the end of the previous gap, or else at the start of the report
gaps as (
    select
        ends.benefit_id,
        ends.threshold,
        lag(ends.end_time, 1, ends.report_start) over (
            partition by ends.benefit_id
            order by ends.end_time
        ) as start_time,
        ends.end_time
    from ends
),

-- one row per benefit with at least one significant gap: its element of the JSON array
inactive as (
    select
        gaps.benefit_id,
        json_build_object(
            'benefitId', gaps.benefit_id,
            'inactivityPeriods', json_agg(
                json_build_object(
                    'startTime', gaps.start_time at time zone 'UTC',
                    'endTime', gaps.end_time at time zone 'UTC'
                )
                order by gaps.start_time
            )
        ) as element
    from gaps
    where gaps.end_time - gaps.start_time >= gaps.threshold
    group by gaps.benefit_id
)

select
    (
        select coalesce(json_agg(inactive.element order by inactive.benefit_id), '[]')
        from inactive
    ) as body,
    case
        when
            not exists (
                select from venue
                where venue.id = params.venue_id
            )
            then 'venue_id'
    end as missing
from params;
