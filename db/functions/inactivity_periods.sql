-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a moment.
--
-- Serves    GET /venues/{venueId}/inactivity-periods
-- Returns   one row: body json, an array with one element per benefit that has such a period, by id
--           ([] when there are none); missing text, the parameter that names nothing (null when all is there)
-- Index     benefit ("venueId"); benefit_usage ("benefitId", "usageTimestamp")
-- Trick     recursive index hops, a loose index scan. A hop goes from one point in time to the latest use
--           less than a threshold later: no gap on the way is significant. Without such a use there is a
--           significant gap, and the hop crosses it, to the next use or, without one, to the moment itself.
--           Two hops move on by at least one threshold, so a benefit costs at most about
--           2 * 180 days / threshold index probes, however often it was used.
--           Equals  lag("usageTimestamp")  over every use in the window
with recursive params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the length of the report, and the first moment that a client's calendar can hold. Both stand in
-- top_benefits.sql too
constants as (
    select
        interval '180 days' as report_length,
        timestamp '0001-01-01' as first_moment
),

-- one row per supported recurrence: how long a gap between uses must be to be significant
thresholds (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per hop of a benefit, from one point in time to a later one. The first comes from nowhere (null)
-- and goes to where the report begins
hops as (
    select
        benefit.id as benefit_id,
        thresholds.threshold,
        null::timestamp as from_point,
        greatest(params.as_of - constants.report_length, constants.first_moment) as to_point
    from params
    cross join constants
    inner join benefit on params.venue_id = benefit."venueId"
    inner join thresholds on benefit.recurrence = thresholds.recurrence

    union all

    select
        hops.benefit_id,
        hops.threshold,
        hops.to_point as from_point,
        coalesce(
            -- used again before the threshold
            (
                select max(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = hops.benefit_id
                    and benefit_usage."usageTimestamp" > hops.to_point
                    and benefit_usage."usageTimestamp" < hops.to_point + hops.threshold
            ),
            -- a gap, ended by the next use
            (
                select min(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = hops.benefit_id
                    and benefit_usage."usageTimestamp" >= hops.to_point + hops.threshold
                    and benefit_usage."usageTimestamp" <= params.as_of
            ),
            -- a gap that still runs
            params.as_of
        ) as to_point
    from hops
    cross join params
    -- hop on while a significant gap still fits in; two hops move on by a threshold, so this ends
    where hops.to_point + hops.threshold <= params.as_of
),

-- one row per significant period, which is a hop over a gap. No setting of the session changes its times:
-- to_json() writes ISO 8601, #>> '{}' takes off the quotes, and the offset of UTC is added. The colon stands
-- alone, since pgbench takes a colon before a word for a variable, even in a literal
periods as (
    select
        hops.benefit_id,
        hops.from_point as start_time,
        json_build_object(
            'startTime', (to_json(hops.from_point) #>> '{}') || '+00' || ':' || '00',
            'endTime', (to_json(hops.to_point) #>> '{}') || '+00' || ':' || '00'
        ) as element
    from hops
    where hops.to_point - hops.from_point >= hops.threshold
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
