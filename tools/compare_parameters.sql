-- name: compare_parameters(texts, seed, set_count)^
-- The sets of values with which tools/compare.py runs two versions of a report.
--
-- Returns      one row: body (json), an array of sets in the order of their use. A set has a member for each
--              parameter of the reports; a report with another parameter needs another member here
-- Performance  benefit_usage is read three times, and never sorted as a whole. A first or last use that is
--              chosen is looked up by its benefit and time

-- one row: the arguments. The texts are those of the two versions
with params as materialized (
    select
        :texts::text[] as texts,
        :seed::bigint as seed,
        :set_count::bigint as set_count
),

-- one row per duration from a use to a moment at which an answer may change: nothing or an interval in either
-- text, and a microsecond less and more. The exact one, which shows most mistakes, stands there twice
shifts as (
    select
        lengths.length::interval + sides.side as shift,
        row_number() over (order by lengths.length, sides.side) - 1 as shift_no,
        count(*) over () as shift_count
    from (
        -- as texts, since 1 month equals 30 days
        select '0 seconds' as length
        union distinct
        select coalesce(found.parts[1], found.parts[2]) as length
        from params
        cross join unnest(params.texts) as versions (text)
        cross join
            regexp_matches(
                versions.text, 'interval\s+''([^'']+)''|''([^'']+)''::interval', 'gi'
            ) as found (parts)
    ) as lengths
    cross join (
        values
        (interval '-1 microsecond'),
        (interval '0 seconds'),
        (interval '0 seconds'),
        (interval '1 microsecond')
    ) as sides (side)
),

-- one row per benefit with uses
used_benefits as materialized (
    select
        benefit_usage."benefitId" as benefit_id,
        count(*) as usage_count,
        min(benefit_usage."usageTimestamp") as first_use,
        max(benefit_usage."usageTimestamp") as last_use
    from benefit_usage
    group by benefit_usage."benefitId"
),

-- one row per person with uses
used_people as (
    select
        benefit_usage."personId" as person_id,
        count(*) as usage_count
    from benefit_usage
    group by benefit_usage."personId"
),

-- one row per use that was drawn by chance
drawn_uses as (
    select
        benefit_usage.id,
        benefit_usage."benefitId" as benefit_id,
        benefit_usage."personId" as person_id,
        benefit_usage."usageTimestamp" as used_at
    from benefit_usage
    order by
        hashint8extended(benefit_usage.id, (select params.seed from params)),
        benefit_usage.id
    limit (select params.set_count from params)
),

-- one row per candidate for a set: a venue, a person, a use that was drawn, or the first or last use of a
-- benefit, since the longest pauses lie before and after those. Some kinds have groups: those of venues and
-- people are tenths by the number of uses, the busiest first
candidates (kind, group_no, id, venue_id, person_id, used_at) as (
    select
        'venue' as kind,
        ntile(10) over (order by sum(used_benefits.usage_count) desc nulls last, venue.id asc) as group_no,
        venue.id,
        venue.id as venue_id,
        null::bigint as person_id,
        null::timestamp as used_at
    from venue
    left join benefit on venue.id = benefit."venueId"
    left join used_benefits on benefit.id = used_benefits.benefit_id
    group by venue.id
    union all
    select
        'person' as kind,
        ntile(10) over (order by used_people.usage_count desc nulls last, person.id asc) as group_no,
        person.id,
        null::bigint as venue_id,
        person.id as person_id,
        null::timestamp as used_at
    from person
    left join used_people on person.id = used_people.person_id
    union all
    select
        'use' as kind,
        1 as group_no,
        drawn_uses.id,
        benefit."venueId" as venue_id,
        drawn_uses.person_id,
        drawn_uses.used_at
    from drawn_uses
    inner join benefit on drawn_uses.benefit_id = benefit.id
    union all
    select
        'end' as kind,
        ends.group_no,
        benefit.id,
        benefit."venueId" as venue_id,
        null::bigint as person_id,
        ends.used_at
    from used_benefits
    cross join
        lateral (
            values
            (1, used_benefits.first_use),
            (2, used_benefits.last_use)
        ) as ends (group_no, used_at)
    inner join benefit on used_benefits.benefit_id = benefit.id
),

-- one row per candidate, with its place by chance in its group
rounds as (
    select
        candidates.*,
        row_number() over (
            partition by candidates.kind, candidates.group_no
            order by hashint8extended(candidates.id, params.seed), candidates.id
        ) as round_no
    from candidates
    cross join params
),

-- one row per candidate, numbered from 0 within its kind: one from each group, then the next one from each
numbered as (
    select
        rounds.*,
        row_number() over (partition by rounds.kind order by rounds.round_no, rounds.group_no) - 1 as pool_no
    from rounds
),

-- one row per candidate that is needed
pool as materialized (
    select
        numbered.*,
        count(*) over (partition by numbered.kind) as pool_size
    from numbered
    cross join params
    where numbered.pool_no < params.set_count
),

-- one row per number from 0, with an id that does not exist
numbers as (
    select
        series.set_no,
        mod(series.set_no, 6) as sixth_no,
        (array[0, -1, 9223372036854775807])[mod(series.set_no / 6, 3) + 1] as unknown_id
    from params
    cross join generate_series(0, params.set_count - 1) as series (set_no)
),

-- one row per set, with its place. Of four sets, one has no timestamp; half of those have a venue or a
-- person that does not exist. Of the other three, one is at a use that was drawn, two at a first or last use
sets as (
    select
        numbers.set_no * 4 as place,
        case when numbers.sixth_no in (1, 3) then numbers.unknown_id else venues.venue_id end as venue_id,
        case when numbers.sixth_no in (2, 3) then numbers.unknown_id else people.person_id end as person_id,
        null::timestamp as as_of
    from numbers
    left join pool as venues
        on
            venues.kind = 'venue'
            and mod(numbers.set_no, venues.pool_size) = venues.pool_no
    -- a person of another tenth in each round
    left join pool as people
        on
            people.kind = 'person'
            and mod(numbers.set_no + numbers.set_no / 10, people.pool_size) = people.pool_no
    union all
    select
        case uses.kind when 'use' then numbers.set_no * 4 + 2 else numbers.set_no * 2 + 1 end as place,
        uses.venue_id,
        coalesce(
            uses.person_id,
            (
                select min(benefit_usage."personId")
                from benefit_usage
                where
                    benefit_usage."benefitId" = uses.id
                    and benefit_usage."usageTimestamp" = uses.used_at
            )
        ) as person_id,
        uses.used_at + shifts.shift as as_of
    from numbers
    inner join pool as uses
        on
            uses.kind in ('use', 'end')
            and mod(numbers.set_no, uses.pool_size) = uses.pool_no
    -- other shifts in each round, for uses that come again
    inner join shifts
        on mod(numbers.set_no + numbers.set_no / shifts.shift_count, shifts.shift_count) = shifts.shift_no
)

select
    json_agg(
        json_build_object(
            'venue_id', sets.venue_id::text,
            'person_id', sets.person_id::text,
            'timestamp', sets.as_of at time zone 'UTC'
        )
        order by sets.place
    ) as body
from sets;
