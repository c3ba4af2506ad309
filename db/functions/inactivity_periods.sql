-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a given time.
--
-- Serves       GET /venues/{venueId}/inactivity-periods
-- Returns      one row. body (json): an array with one element per benefit that has such a period, ordered by
--              id. missing (text): 'venue_id' if that id does not exist, else null. If not null, ignore body
-- Index        benefit ("venueId"); benefit_usage ("benefitId", "usageTimestamp")
-- Performance  A gap is between two uses, or a use and the start or end of the 180 days. The query
--              probes times one threshold apart, so every gap of at least one threshold contains a probe
--              time. Two index lookups find the gap around a probe time: per benefit, 26 for at most 13
--              probe times (180 / 14, rounded up), however many uses there are. The plain form,
--              db/plain/inactivity_periods.sql, has the same result, but reads all uses in the 180 days

-- one row: the arguments. A null timestamp means now. as_of is in UTC without a time zone, like
-- "usageTimestamp". Not materialized, so that the planner sees the values
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row per supported recurrence: the minimum length of a significant gap
thresholds (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per benefit of the venue with a supported recurrence: its threshold, and the start and end of the
-- report. If the 180 days change, also change top_benefits.sql
reported as (
    select
        benefit.id as benefit_id,
        thresholds.threshold,
        params.as_of - interval '180 days' as report_start,
        params.as_of as report_end
    from params
    inner join benefit on params.venue_id = benefit."venueId"
    -- the cast is for a column whose type is an enum
    inner join thresholds on benefit.recurrence::text = thresholds.recurrence
),

-- one row per probe time of a benefit: at the start of the report, then at intervals of one threshold, up to
-- but not including the end
probe_times as (
    select
        reported.*,
        series.probe_time
    from reported
    cross join
        generate_series(reported.report_start, reported.report_end, reported.threshold) as series (probe_time)
    where
        -- the first condition is always true. With a lower and an upper bound, the planner expects 5 rows
        -- per benefit instead of 1,000
        series.probe_time >= reported.report_start
        and series.probe_time < reported.report_end
),

-- one row per probe time: the gap around it, from the last use at or before it (if none, the start of the
-- report) to the next use (if none, the end of the report). Materialized, because otherwise the condition in
-- significant_gaps would run each subquery again
probed_gaps as materialized (
    select
        probe_times.benefit_id,
        probe_times.threshold,
        coalesce(
            (
                select max(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = probe_times.benefit_id
                    and benefit_usage."usageTimestamp" > probe_times.report_start
                    and benefit_usage."usageTimestamp" <= probe_times.probe_time
            ),
            probe_times.report_start
        ) as start_time,
        coalesce(
            (
                select min(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = probe_times.benefit_id
                    and benefit_usage."usageTimestamp" > probe_times.probe_time
                    and benefit_usage."usageTimestamp" <= probe_times.report_end
            ),
            probe_times.report_end
        ) as end_time
    from probe_times
),

-- one row per significant gap. Distinct, because a long gap is found at several probe times
significant_gaps as (
    select distinct
        probed_gaps.benefit_id,
        probed_gaps.start_time,
        probed_gaps.end_time
    from probed_gaps
    where probed_gaps.end_time - probed_gaps.start_time >= probed_gaps.threshold
),

-- one row per benefit with at least one significant gap: its element of the JSON array
inactive_benefits as (
    select
        significant_gaps.benefit_id,
        json_build_object(
            'benefitId', significant_gaps.benefit_id,
            'inactivityPeriods', json_agg(
                json_build_object(
                    'startTime', significant_gaps.start_time at time zone 'UTC',
                    'endTime', significant_gaps.end_time at time zone 'UTC'
                )
                order by significant_gaps.start_time
            )
        ) as element
    from significant_gaps
    group by significant_gaps.benefit_id
)

select
    (
        select coalesce(json_agg(inactive_benefits.element order by inactive_benefits.benefit_id), '[]')
        from inactive_benefits
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
