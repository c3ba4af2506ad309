-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a moment, for Citus.
--
-- Serves    GET /venues/{venueId}/inactivity-periods
-- Returns   one row: body json, an array with one element per benefit that has such a period, by id
--           ([] when there are none); missing text, the parameter that names nothing (null when all is there)
-- Index     benefit ("venueId"); benefit_usage ("benefitId", "usageTimestamp")
-- Trick     checkpoints, as Citus refuses a recursive query over shards. They are one threshold apart, from
--           where the report begins, so every significant gap has one in it. The latest use at or before a
--           checkpoint and the first one after it bound the only gap that can be there: two index probes per
--           checkpoint, so at most 26 per benefit, however often it was used.
--           Equals  lag("usageTimestamp")  over every use in the window
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the length of the report, and the first moment that a client's calendar can hold. Both stand in
-- top_benefits.sql too. The last checkpoint that a report has room for, when thresholds are at their shortest
constants as (
    select
        interval '180 days' as report_length,
        timestamp '0001-01-01' as first_moment,
        12 as last_checkpoint
),

-- one row per supported recurrence: how long a gap between uses must be to be significant
thresholds (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per checkpoint of a benefit of the venue
checkpoints as (
    select
        benefit.id as benefit_id,
        thresholds.threshold,
        windows.opens,
        windows.as_of,
        windows.opens + steps.step_no * thresholds.threshold as moment
    from (
        select
            params.venue_id,
            params.as_of,
            greatest(params.as_of - constants.report_length, constants.first_moment) as opens,
            constants.last_checkpoint
        from params
        cross join constants
    ) as windows
    inner join benefit on windows.venue_id = benefit."venueId"
    inner join thresholds on benefit.recurrence = thresholds.recurrence
    cross join generate_series(0, windows.last_checkpoint) as steps (step_no)
    where windows.opens + steps.step_no * thresholds.threshold < windows.as_of
),

-- one row per gap with a checkpoint in it. A plain distinct would look for both ends twice
gaps as (
    select distinct on (checkpoints.benefit_id, start_time)
        checkpoints.benefit_id,
        checkpoints.threshold,
        coalesce(
            (
                select max(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = checkpoints.benefit_id
                    and benefit_usage."usageTimestamp" > checkpoints.opens
                    and benefit_usage."usageTimestamp" <= checkpoints.moment
            ),
            checkpoints.opens
        ) as start_time,
        coalesce(
            (
                select min(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = checkpoints.benefit_id
                    and benefit_usage."usageTimestamp" > checkpoints.moment
                    and benefit_usage."usageTimestamp" <= checkpoints.as_of
            ),
            checkpoints.as_of
        ) as end_time
    from checkpoints
    order by checkpoints.benefit_id, start_time
),

-- one row per significant period. No setting of the session changes its times: to_json() writes ISO 8601,
-- #>> '{}' takes off the quotes, and the offset of UTC is added. The colon stands alone, since pgbench takes
-- one before a word for a variable, even in a literal
periods as (
    select
        gaps.benefit_id,
        gaps.start_time,
        json_build_object(
            'startTime', (to_json(gaps.start_time) #>> '{}') || '+00' || ':' || '00',
            'endTime', (to_json(gaps.end_time) #>> '{}') || '+00' || ':' || '00'
        ) as element
    from gaps
    where gaps.end_time - gaps.start_time >= gaps.threshold
),

-- one row per benefit with at least one significant period
inactive as (
    select
        periods.benefit_id,
        json_build_object(
            'benefitId', periods.benefit_id,
            'inactivityPeriods', json_agg(periods.element order by periods.start_time)
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
