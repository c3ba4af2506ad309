-- name: top_benefits(timestamp)^
-- The query that tests compare top_benefits with. For each venue, it counts the uses of its benefits.
with params as (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
)

select
    coalesce(
        json_agg(
            json_build_object('venueId', venue.id, 'topBenefits180Days', coalesce(top.benefits, '[]'))
            order by venue.id
        ),
        '[]'
    ) as body,
    null::text as missing
from venue
cross join params
cross join lateral (
    select json_agg(json_build_object('benefitId', most_used.id, 'usageCount', most_used.usage_count)) as benefits
    from (
        select
            benefit.id,
            count(*) as usage_count
        from benefit
        inner join benefit_usage on benefit.id = benefit_usage."benefitId"
        where
            benefit."venueId" = venue.id
            and params.as_of - benefit_usage."usageTimestamp" >= interval '0'
            and params.as_of - benefit_usage."usageTimestamp" < interval '180 days'
        group by benefit.id
        order by usage_count desc, benefit.id
        fetch first 3 rows only
    ) as most_used
) as top;
