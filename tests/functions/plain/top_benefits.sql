-- name: top_benefits(timestamp)^
-- The plain form of top_benefits, and the oracle that it is compared with: it groups all uses in the window.
with params as (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

counted as (
    select
        benefit_usage."benefitId" as benefit_id,
        count(*) as usage_count
    from params
    inner join benefit_usage
        on
            greatest(params.as_of - interval '180 days', timestamp '0001-01-01')
            < benefit_usage."usageTimestamp"
            and params.as_of >= benefit_usage."usageTimestamp"
    group by benefit_usage."benefitId"
),

ranked as (
    select
        benefit."venueId" as venue_id,
        counted.benefit_id,
        counted.usage_count,
        rank() over (
            partition by benefit."venueId"
            order by counted.usage_count desc, counted.benefit_id asc
        ) as rank_in_venue
    from counted
    inner join benefit on counted.benefit_id = benefit.id
),

top as (
    select
        ranked.venue_id,
        json_agg(
            json_build_object('benefitId', ranked.benefit_id, 'usageCount', ranked.usage_count)
            order by ranked.rank_in_venue
        ) as found
    from ranked
    where ranked.rank_in_venue <= 3
    group by ranked.venue_id
)

select
    coalesce(
        json_agg(
            json_build_object('venueId', venue.id, 'topBenefits180Days', coalesce(top.found, '[]'))
            order by venue.id
        ),
        '[]'
    ) as body
from venue
left join top on venue.id = top.venue_id;
