-- name: top_benefits(timestamp)^
-- The three most used benefits of every venue in the 180 days up to a moment, for Citus.
--
-- Serves    GET /venues/top-benefits
-- Returns   one row: body json, an array with one element per venue, by venue id ([] when there are none);
--           missing text, always null
-- Index     benefit_usage ("benefitId", "usageTimestamp")
-- Trick     none: the uses are grouped by the distribution column, so every shard counts its own, all of them
--           side by side
with params as (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the numbers of the report. The first two stand in inactivity_periods.sql too, and the name
-- topBenefits180Days goes with the first
constants as not materialized (
    select
        interval '180 days' as report_length,
        timestamp '0001-01-01' as first_moment,
        3 as top_size
),

-- one row: the time that counts, from opens (excluded) to as_of (included)
report_window as (
    select
        greatest(params.as_of - constants.report_length, constants.first_moment) as opens,
        params.as_of
    from params
    cross join constants
),

-- one row per benefit that was used in the window
used as (
    select
        benefit_usage."benefitId" as benefit_id,
        count(*) as usage_count
    from benefit_usage
    cross join report_window
    where
        benefit_usage."usageTimestamp" > report_window.opens
        and benefit_usage."usageTimestamp" <= report_window.as_of
    group by benefit_usage."benefitId"
),

-- one row per used benefit, with its venue
counted as (
    select
        benefit."venueId" as venue_id,
        used.benefit_id,
        used.usage_count
    from used
    inner join benefit on used.benefit_id = benefit.id
),

-- one row per counted benefit, with its rank in its venue
ranked as (
    select
        counted.*,
        row_number() over (
            partition by counted.venue_id
            order by counted.usage_count desc, counted.benefit_id asc
        ) as rank_in_venue
    from counted
),

-- one row per venue with at least one use
top as (
    select
        ranked.venue_id,
        json_agg(
            json_build_object('benefitId', ranked.benefit_id, 'usageCount', ranked.usage_count)
            order by ranked.rank_in_venue
        ) as benefits
    from ranked
    cross join constants
    where ranked.rank_in_venue <= constants.top_size
    group by ranked.venue_id
)

select
    coalesce(
        json_agg(
            json_build_object(
                'venueId', venue.id,
                'topBenefits180Days', coalesce(top.benefits, '[]')
            )
            order by venue.id
        ),
        '[]'
    ) as body,
    null::text as missing
from venue
left join top on venue.id = top.venue_id;
