-- name: inactivity_periods(venue_id, timestamp)^
-- The significant inactivity periods of a venue's benefits in the 180 days up to a moment.
--
-- Serves    GET /venues/{venueId}/inactivity-periods
-- Returns   one row: body json, an array with one element per benefit that has such a period, by id
--           ([] when there are none); missing text, the parameter that names nothing (null when all is there)
-- Index     benefit ("venueId"); benefit_usage ("benefitId", "usageTimestamp")
-- Trick     recursive index hops, a loose index scan: from a point in time the next hop goes to the latest
--           use before point + threshold, since no significant gap can end sooner. Only when there is none
--           is there a gap, which the next use closes (or the moment itself). Two hops move on by at least
--           one threshold, so a benefit costs at most about 2 * 180 days / threshold probes, however often
--           it was used. Equals  lag("usageTimestamp")  over every use in the window
with recursive params as not materialized (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the length of the report, and the first moment that a client's calendar can hold
constants as not materialized (
    select
        interval '180 days' as report_length,
        timestamp '0001-01-01' as first_moment
),

-- one row per supported recurrence: how long a silence is significant
rules (recurrence, threshold) as (
    values
    ('day', interval '14 days'),
    ('week', interval '21 days'),
    ('month', interval '30 days')
),

-- one row per hop of a benefit, from one point in time to a later one (the first one only arrives)
hops as (
    select
        benefit.id as benefit_id,
        rules.threshold,
        null::timestamp as start_time,
        greatest(params.as_of - constants.report_length, constants.first_moment) as end_time
    from params
    cross join constants
    inner join benefit on params.venue_id = benefit."venueId"
    inner join rules on benefit.recurrence = rules.recurrence

    union all

    select
        hops.benefit_id,
        hops.threshold,
        hops.end_time as start_time,
        coalesce(
            (
                select max(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = hops.benefit_id
                    and benefit_usage."usageTimestamp" > hops.end_time
                    and benefit_usage."usageTimestamp" < hops.end_time + hops.threshold
            ),
            (
                select min(benefit_usage."usageTimestamp")
                from benefit_usage
                where
                    benefit_usage."benefitId" = hops.benefit_id
                    and benefit_usage."usageTimestamp" >= hops.end_time + hops.threshold
                    and benefit_usage."usageTimestamp" <= params.as_of
            ),
            params.as_of
        ) as end_time
    from hops
    cross join params
    where hops.end_time + hops.threshold <= params.as_of
),

-- one row per significant period; UTC is written out, so no session's time zone can change the answer,
-- and with its colon alone, since pgbench reads a colon and a word as a variable even in a literal
periods as (
    select
        hops.benefit_id,
        hops.start_time,
        json_build_object(
            'startTime', (to_json(hops.start_time) #>> '{}') || '+00' || ':' || '00',
            'endTime', (to_json(hops.end_time) #>> '{}') || '+00' || ':' || '00'
        ) as element
    from hops
    where hops.end_time - hops.start_time >= hops.threshold
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
