-- name: top_benefits(timestamp)^
-- The three most used benefits of every venue in the 180 days up to a moment.
--
-- Serves    GET /venues/top-benefits
-- Returns   one row: body json, an array with one element per venue, by venue id ([] when there are none);
--           missing text, always null
-- Index     benefit_usage ("benefitId", "usageTimestamp")
-- Trick     a lateral count: every benefit counts its own range of the index, so a use costs one index
--           entry and no hashing. Equals  group by "benefitId"  over the uses in the window
with params as not materialized (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the only place that knows the numbers
constants as not materialized (
    select
        interval '180 days' as report_length,
        timestamp '0001-01-01' as first_moment,
        3 as top_size
),

-- one row: after opens (excluded) to as_of (included)
report_window as not materialized (
    select
        greatest(params.as_of - constants.report_length, constants.first_moment) as opens,
        params.as_of
    from params
    cross join constants
),

-- one row per benefit that was used in the window
counted as (
    select
        benefit."venueId" as venue_id,
        benefit.id as benefit_id,
        used.usage_count
    from report_window
    cross join benefit
    inner join lateral (
        select count(*) as usage_count
        from benefit_usage
        where
            benefit_usage."benefitId" = benefit.id
            and benefit_usage."usageTimestamp" > report_window.opens
            and benefit_usage."usageTimestamp" <= report_window.as_of
    ) as used on true
    where used.usage_count > 0
),

-- one row per counted benefit, with its place in its venue
ranked as (
    select
        counted.*,
        row_number() over (
            partition by counted.venue_id
            order by counted.usage_count desc, counted.benefit_id asc
        ) as place
    from counted
),

-- one row per venue with at least one use
listed as (
    select
        ranked.venue_id,
        json_agg(
            json_build_object('benefitId', ranked.benefit_id, 'usageCount', ranked.usage_count)
            order by ranked.place
        ) as benefits
    from ranked
    cross join constants
    where ranked.place <= constants.top_size
    group by ranked.venue_id
)

select
    coalesce(
        json_agg(
            json_build_object(
                'venueId', venue.id,
                'topBenefits180Days', coalesce(listed.benefits, '[]')
            )
            order by venue.id
        ),
        '[]'
    ) as body,
    null::text as missing
from venue
left join listed on venue.id = listed.venue_id;
