-- name: available_benefits(venue_id, person_id, timestamp)^
-- The benefits of a venue that a person can use at a given time.
--
-- Serves       GET /venues/{venueId}/available-benefits
-- Returns      one row. body (json): an array with one element per benefit, ordered by id. missing (text):
--              'venue_id' or 'person_id' if that id does not exist, else null. If not null, ignore body
-- Index        benefit ("venueId"); benefit_usage ("personId", "benefitId", "usageTimestamp")
-- Performance  max() takes one index probe per benefit, however many uses the person has. The not exists of
--              db/plain/available_benefits.sql has the same result, but can become a join that reads all uses
--              of the person

-- one row: the arguments. A null timestamp means now. as_of is in UTC without a time zone, like
-- "usageTimestamp". Not materialized, so that the planner sees the values
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        :person_id::bigint as person_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row per supported recurrence: how long after a use the person cannot use the benefit again
cooldowns (recurrence, cooldown) as (
    values
    ('day', interval '24 hours'),
    ('week', interval '168 hours'),
    ('month', interval '720 hours')
),

-- one row per benefit of the venue with a supported recurrence that is not in its cooldown at as_of. It is
-- available again at the moment the cooldown ends. Uses after as_of do not count
available as (
    select
        benefit.id,
        json_build_object(
            'id', benefit.id,
            'venueId', benefit."venueId",
            'title', benefit.title,
            'recurrence', cooldowns.recurrence
        ) as element
    from params
    inner join benefit on params.venue_id = benefit."venueId"
    -- the cast is for a column whose type is an enum
    inner join cooldowns on benefit.recurrence::text = cooldowns.recurrence
    where
        -- max() is null if the person has no use within the cooldown
        (
            select max(benefit_usage."usageTimestamp")
            from benefit_usage
            where
                benefit_usage."personId" = params.person_id
                and benefit_usage."benefitId" = benefit.id
                and benefit_usage."usageTimestamp" > params.as_of - cooldowns.cooldown
                and benefit_usage."usageTimestamp" <= params.as_of
        ) is null
)

select
    (
        select coalesce(json_agg(available.element order by available.id), '[]')
        from available
    ) as body,
    case
        when
            not exists (
                select from venue
                where venue.id = params.venue_id
            )
            then 'venue_id'
        when
            not exists (
                select from person
                where person.id = params.person_id
            )
            then 'person_id'
    end as missing
from params;
