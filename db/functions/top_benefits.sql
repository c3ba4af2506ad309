-- name: top_benefits(timestamp)^
-- The three most used benefits of every venue in the 180 days up to a moment.
--
-- Serves    GET /venues/top-benefits
-- Returns   one row: body json, an array with one element per venue, by venue id ([] when there are none);
--           missing text, always null
-- Index     benefit_usage ("benefitId", "usageTimestamp")
-- Tricks    shares: the benefits are cut into six ranges of ids, which parallel workers count side by side
--           (Parallel Append), each in index order (GroupAggregate on Index Only Scan), so a use costs one
--           index entry and no hashing. The bounds come from subselects without outer columns: PostgreSQL
--           hands those to workers, but not the columns of an outer row, so a lateral count cannot do it.
--           any (array[...]): see counted. Equals  group by "benefitId"  over the uses in the window
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

-- one row: the id below the first benefit's, then the last id of each of six equal shares of the benefits;
-- computed once, before the workers start
bounds as materialized (
    select
        min(benefit.id) - 1
        || percentile_disc(array[1 / 6.0, 2 / 6.0, 3 / 6.0, 4 / 6.0, 5 / 6.0, 1]) within group (
            order by benefit.id
        ) as ids
    from benefit
),

-- one row per benefit that was used in the window; shares runs it once per range, never as a whole
used as not materialized (
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

-- one row per share and used benefit. The planner moves the range condition of counted into every branch,
-- with the branch number for share_no, and down to its index scan: each branch reads its own range only
shares as not materialized (
    select
        1 as share_no,
        used.*
    from used
    union all
    select
        2 as share_no,
        used.*
    from used
    union all
    select
        3 as share_no,
        used.*
    from used
    union all
    select
        4 as share_no,
        used.*
    from used
    union all
    select
        5 as share_no,
        used.*
    from used
    union all
    select
        6 as share_no,
        used.*
    from used
),

-- one row per benefit that was used in the window
counted as (
    select
        benefit."venueId" as venue_id,
        benefit.id as benefit_id,
        shares.usage_count
    from shares
    inner join benefit on shares.benefit_id = benefit.id
    where
        shares.benefit_id > (select bounds.ids from bounds)[shares.share_no]
        -- any (array[x]) means x. The planner takes two plain bounds that it does not know yet for a narrow
        -- range, a 200th of the table, not worth a worker; written like this, for a ninth of it
        and shares.benefit_id <= any(array[(select bounds.ids from bounds)[shares.share_no + 1]])
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
