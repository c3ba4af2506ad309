-- name: inactivity_periods(venue_id, timestamp)^
-- The plain form of inactivity_periods, and the oracle that it is compared with: it looks at every use in
-- the window and the one before it.
with params as (
    select
        :venue_id::bigint as venue_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

points as (
    select
        benefit.id as benefit_id,
        benefit.recurrence,
        moments.moment
    from params
    inner join benefit on params.venue_id = benefit."venueId"
    inner join lateral (
        select greatest(params.as_of - interval '180 days', timestamp '0001-01-01') as moment
        union all
        select benefit_usage."usageTimestamp"
        from benefit_usage
        where
            benefit_usage."benefitId" = benefit.id
            and benefit_usage."usageTimestamp"
            > greatest(params.as_of - interval '180 days', timestamp '0001-01-01')
            and benefit_usage."usageTimestamp" <= params.as_of
        union all
        select params.as_of
    ) as moments on true
),

neighbours as (
    select
        points.*,
        lag(points.moment) over (partition by points.benefit_id order by points.moment) as previous
    from points
),

periods as (
    select
        neighbours.benefit_id,
        json_agg(
            json_build_object(
                'startTime', (to_json(neighbours.previous) #>> '{}') || '+00' || ':' || '00',
                'endTime', (to_json(neighbours.moment) #>> '{}') || '+00' || ':' || '00'
            )
            order by neighbours.moment
        ) as found
    from neighbours
    where
        neighbours.moment - neighbours.previous >= case neighbours.recurrence
            when 'day' then interval '14 days'
            when 'week' then interval '21 days'
            when 'month' then interval '30 days'
        end
    group by neighbours.benefit_id
)

select
    coalesce(
        json_agg(
            json_build_object('benefitId', periods.benefit_id, 'inactivityPeriods', periods.found)
            order by periods.benefit_id
        ),
        '[]'
    ) as body
from periods;
