-- name: top_benefits(timestamp)^
-- The three most used benefits of every venue in the 180 days up to a moment.
--
-- Serves    GET /venues/top-benefits
-- Returns   one row: body json, an array with one element per venue, by venue id ([] when there are none);
--           missing text, always null
-- Index     benefit_usage ("benefitId", "usageTimestamp")
-- Tricks    shares: the benefits are cut into ranges of ids, which parallel workers count side by side
--           (Parallel Append), each in index order (GroupAggregate on Index Only Scan), so a use costs one
--           index entry and no hashing. Where a range ends comes from subselects without outer columns,
--           which PostgreSQL hands to workers; it does not hand them the columns of an outer row, so a
--           lateral count cannot do it. any(array[...]): see counted. What they buy: of 20,000,000 uses, a
--           quarter of the plain form's time on PostgreSQL 13 and 15 and six tenths on 18; of 200,000, none
--           Equals  group by "benefitId"  over the uses in the window
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

-- one row: the first benefit's id, then the last id of each of six equal shares of the benefits; computed
-- once, before the workers start. Six shares are six fractions here and six branches in shares: change both
share_ends as materialized (
    select
        array_prepend(
            min(benefit.id),
            percentile_disc(array[1 / 6.0, 2 / 6.0, 3 / 6.0, 4 / 6.0, 5 / 6.0, 1]) within group (
                order by benefit.id
            )
        ) as ids
    from benefit
),

-- one row per benefit that was used in the window; shares runs it once per share, never as a whole
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

-- one row per share and used benefit. As written, every benefit is in every share, and counted keeps the one
-- that it belongs to. The planner moves that condition into every branch, with the branch's number for
-- share_no, and down to its index scan: each branch reads its own range only
shares as (
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

-- one row per benefit that was used in the window, with its venue
counted as (
    select
        benefit."venueId" as venue_id,
        benefit.id as benefit_id,
        shares.usage_count
    from shares
    inner join benefit on shares.benefit_id = benefit.id
    where
        -- the first share begins with the first id, as the type may have none below it; every other share
        -- begins after the end of the one before
        case shares.share_no
            when 1 then shares.benefit_id >= (select share_ends.ids from share_ends)[1]
            else shares.benefit_id > (select share_ends.ids from share_ends)[shares.share_no]
        end
        -- <= any(array[x]) is <= x. The planner takes two plain ends that it does not know yet for a narrow
        -- range, a 200th of the table, not worth a worker; written like this, for a ninth of it
        and shares.benefit_id <= any(array[(select share_ends.ids from share_ends)[shares.share_no + 1]])
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
