-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a given time.
--
-- Serves       GET /venues/{venueId}/inactivity-periods
-- Returns      one row: body json, an array with one element per benefit that has such a period, by id
--              ([] if there are none); missing text, venue_id if there is no such venue, else null
-- Index        benefit ("venueId"); benefit_usage ("benefitId", "usageTimestamp")
-- Performance  Checkpoints are one threshold apart, so every significant gap contains one. Two index probes
--              per checkpoint find the gap around it, so a benefit costs at most 26 probes, however often it
--              was used. Equals db/plain/inactivity_periods.sql, which reads all uses in the 180 days
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the length of the report, which stands in top_benefits.sql too
constants as (
    select interval '180 days' as report_length
),

-- one row per supported recurrence: how long a gap between uses must be to be significant
thresholds (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per benefit of the venue with a supported recurrence: its threshold, and when the report begins and
-- ends
watched as (
    select
        benefit.id as benefit_id,
        thresholds.threshold,
        params.as_of - constants.report_length as report_start,
        params.as_of as report_end
    from params
    cross join constants
    inner join benefit on params.venue_id = benefit."venueId"
    -- the cast is for a column of another type, such as an enum
    inner join thresholds on benefit.recurrence::text = thresholds.recurrence
),

-- one row per checkpoint of a benefit: the first when the report begins, then one every threshold
checkpoints as (
    select
        watched.*,
        series.moment
    from watched
    cross join generate_series(watched.report_start, watched.report_end, watched.threshold) as series (moment)
    where
        -- the first condition is always true. With both, the planner expects few rows, and not the 1,000 that
        -- it expects of generate_series()
        series.moment >= watched.report_start
        and series.moment < watched.report_end
),

-- one row per checkpoint: the gap around it. The gap begins with the last use up to the checkpoint, or else
-- when the report begins. It ends with the next use, or else when the report ends. Materialized, so that each
-- subquery runs once per row
gaps as materialized (
    select
        checkpoints.benefit_id,
        checkpoints.threshold,
        coalesce(
            (
                select max(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = checkpoints.benefit_id
                    and benefit_usage."usageTimestamp" > checkpoints.report_start
                    and benefit_usage."usageTimestamp" <= checkpoints.moment
            ),
            checkpoints.report_start
        ) as start_time,
        coalesce(
            (
                select min(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = checkpoints.benefit_id
                    and benefit_usage."usageTimestamp" > checkpoints.moment
                    and benefit_usage."usageTimestamp" <= checkpoints.report_end
            ),
            checkpoints.report_end
        ) as end_time
    from checkpoints
),

-- one row per significant gap. Distinct, since a long gap is found at several checkpoints
periods as (
    select distinct
        gaps.benefit_id,
        gaps.start_time,
        gaps.end_time
    from gaps
    where gaps.end_time - gaps.start_time >= gaps.threshold
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
