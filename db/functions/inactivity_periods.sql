-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a given time.
--
-- Serves       GET /venues/{venueId}/inactivity-periods
-- Returns      one row. body (json): an array with one element per benefit that has such a period, ordered by
--              id. missing (text): venue_id if there is no such venue, else null; if not null, ignore body
-- Index        benefit ("venueId"); benefit_usage ("benefitId", "usageTimestamp")
-- Performance  A gap lasts from a use to the next one. Checkpoints are one threshold apart, so every gap that
--              is at least as long contains one. Two index probes per checkpoint find the gap around it: at
--              most 26 per benefit (180 days / 14 days is 13 checkpoints), however often it was used.
--              db/plain/inactivity_periods.sql returns the same, but reads all uses in the 180 days

-- one row: the arguments, the time in UTC. Not materialized, so that the planner sees their values
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row per supported recurrence: the shortest gap that is significant
thresholds (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per benefit of the venue with a supported recurrence: its threshold, and when the report starts and
-- ends. Its length is that of top_benefits.sql
reported as (
    select
        benefit.id as benefit_id,
        thresholds.threshold,
        params.as_of - interval '180 days' as start_time,
        params.as_of as end_time
    from params
    inner join benefit on params.venue_id = benefit."venueId"
    -- recurrence may be an enum
    inner join thresholds on benefit.recurrence::text = thresholds.recurrence
),

-- one row per checkpoint of a benefit: the first when the report begins, then one every threshold
checkpoints as (
    select
        reported.*,
        series.moment
    from reported
    cross join generate_series(reported.start_time, reported.end_time, reported.threshold) as series (moment)
    where
        -- this line is for the planner only: with a lower and an upper bound it expects 5 rows, not 1,000
        series.moment >= reported.start_time
        and series.moment < reported.end_time
),

-- one row per checkpoint: the gap around it, from the last use up to it (or the start of the report) to the
-- next use (or the end of the report). Materialized, or else each subquery runs again for the condition below
checkpoint_gaps as materialized (
    select
        checkpoints.benefit_id,
        checkpoints.threshold,
        coalesce(
            (
                select max(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = checkpoints.benefit_id
                    and benefit_usage."usageTimestamp" > checkpoints.start_time
                    and benefit_usage."usageTimestamp" <= checkpoints.moment
            ),
            checkpoints.start_time
        ) as start_time,
        coalesce(
            (
                select min(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = checkpoints.benefit_id
                    and benefit_usage."usageTimestamp" > checkpoints.moment
                    and benefit_usage."usageTimestamp" <= checkpoints.end_time
            ),
            checkpoints.end_time
        ) as end_time
    from checkpoints
),

-- one row per significant gap; a long gap is found at several checkpoints
periods as (
    select distinct
        checkpoint_gaps.benefit_id,
        checkpoint_gaps.start_time,
        checkpoint_gaps.end_time
    from checkpoint_gaps
    where checkpoint_gaps.end_time - checkpoint_gaps.start_time >= checkpoint_gaps.threshold
),

-- one row per benefit with at least one significant period
inactive as (
    select
        periods.benefit_id,
        json_build_object(
            'benefitId', periods.benefit_id,
            'inactivityPeriods', json_agg(
                json_build_object(
                    'startTime', periods.start_time at time zone 'UTC',
                    'endTime', periods.end_time at time zone 'UTC'
                )
                order by periods.start_time
            )
        ) as element
    from periods
    group by periods.benefit_id
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
