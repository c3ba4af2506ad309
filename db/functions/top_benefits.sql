-- name: top_benefits(timestamp)^
-- The three most used benefits of every venue in the 180 days up to a given time.
--
-- Serves       GET /venues/top-benefits
-- Returns      one row: body json, an array with one element per venue, by id ([] if there are none);
--              missing text, always null
-- Index        none needed; benefit_usage ("benefitId", "usageTimestamp") may be read instead of the table
-- Performance  The uses are read once, in parallel where the table is large. The two subqueries in the
--              condition run once, before that. postgres_fdw sends their values to other servers, which then
--              count their own uses; it does not send now()
with params as (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the numbers of the report. The length stands in inactivity_periods.sql too, and in the name
-- topBenefits180Days
constants as (
    select
        interval '180 days' as report_length,
        3 as top_size
),

-- one row: when the report begins (a use at that moment does not count) and ends (a use at that moment does)
report as materialized (
    select
        params.as_of - constants.report_length as report_start,
        params.as_of as report_end
    from params
    cross join constants
),

-- one row per benefit with at least one use in the report
used as (
    select
        benefit_usage."benefitId" as benefit_id,
        count(*) as usage_count
    from benefit_usage
    where
        benefit_usage."usageTimestamp" > (select report.report_start from report)
        and benefit_usage."usageTimestamp" <= (select report.report_end from report)
    group by benefit_usage."benefitId"
),

-- one row per used benefit, with its rank in its venue
ranked as (
    select
        benefit."venueId" as venue_id,
        used.benefit_id,
        used.usage_count,
        row_number() over (
            partition by benefit."venueId"
            order by used.usage_count desc, used.benefit_id asc
        ) as rank_in_venue
    from used
    inner join benefit on used.benefit_id = benefit.id
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
