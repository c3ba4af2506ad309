-- name: top_benefits(timestamp)^
-- The three most used benefits of every venue in the 180 days up to a given time.
--
-- Serves       GET /venues/top-benefits
-- Returns      one row. body (json): an array with one element per venue, ordered by id. missing (text):
--              always null, a column that the other reports need
-- Index        none: all uses are read. An index-only scan of benefit_usage ("benefitId", "usageTimestamp")
--              can take the place of the table's
-- Performance  One scan, in parallel where the table is large. The report's start and end are subqueries that
--              run once, so that postgres_fdw sends their values, and the count, to other servers; it would
--              not send now()

-- one row: the argument, in UTC
with params as (
    select coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row: the numbers of the report. To change its length, change inactivity_periods.sql and the name
-- topBenefits180Days too
constants as not materialized (
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

-- one row per benefit with at least one use in the report: how many it has
usage_counts as (
    select
        benefit_usage."benefitId" as benefit_id,
        count(*) as usage_count
    from benefit_usage
    where
        benefit_usage."usageTimestamp" > (select report.report_start from report)
        and benefit_usage."usageTimestamp" <= (select report.report_end from report)
    group by benefit_usage."benefitId"
),

-- one row per such benefit, with its rank in its venue: most used first, then by id
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

-- one row per venue with at least one use in the report: its top benefits
venue_tops as (
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
                'topBenefits180Days', coalesce(venue_tops.benefits, '[]')
            )
            order by venue.id
        ),
        '[]'
    ) as body,
    null::text as missing
from venue
left join venue_tops on venue.id = venue_tops.venue_id;
