-- name: top_benefits(timestamp)^
-- The most used benefits, at most three, of every venue in the 180 days up to a given time.
--
-- Serves       GET /venues/top-benefits
-- Returns      one row. body (json): an array with one element per venue, used or not, ordered by id.
--              missing (text): always null; present because the other reports return it
-- Index        none needed. It scans benefit_usage once, or instead the index ("benefitId", "usageTimestamp")
-- Performance  The bounds of the time range are scalar subqueries, each evaluated once. If benefit_usage is a
--              foreign table, postgres_fdw can therefore push down the conditions and the count. It cannot
--              push down a condition that contains now()

-- one row: the argument. Null means now. as_of is in UTC without a time zone, like "usageTimestamp"
with params as (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the time range of the report, start exclusive and end inclusive, and the number of benefits per
-- venue. If the 180 days change, also change inactivity_periods.sql and the name topBenefits180Days
constants as materialized (
    select
        params.as_of - interval '180 days' as start_time,
        params.as_of as end_time,
        3 as top_size
    from params
),

-- one row per benefit used in the time range: its number of uses
usage_counts as (
    select
        benefit_usage."benefitId" as benefit_id,
        count(*) as usage_count
    from benefit_usage
    where
        benefit_usage."usageTimestamp" > (select constants.start_time from constants)
        and benefit_usage."usageTimestamp" <= (select constants.end_time from constants)
    group by benefit_usage."benefitId"
),

-- one row per benefit used in the time range: its rank in its venue, by number of uses, then by id
ranked as (
    select
        benefit."venueId" as venue_id,
        usage_counts.benefit_id,
        usage_counts.usage_count,
        row_number() over (
            partition by benefit."venueId"
            order by usage_counts.usage_count desc, usage_counts.benefit_id asc
        ) as rank_in_venue
    from usage_counts
    inner join benefit on usage_counts.benefit_id = benefit.id
),

-- one row per venue with at least one use in the time range: its top benefits as a JSON array
top_per_venue as (
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
                'topBenefits180Days', coalesce(top_per_venue.benefits, '[]')
            )
            order by venue.id
        ),
        '[]'
    ) as body,
    null::text as missing
from venue
left join top_per_venue on venue.id = top_per_venue.venue_id;
