-- name: available_benefits(venue_id, person_id, timestamp)^
-- The benefits of a venue that a person can use at a moment.
--
-- Serves    GET /venues/{venueId}/available-benefits
-- Returns   one row: body json, an array with one element per benefit, by id ([] when there are none);
--           missing text, the parameter that names nothing (null when all is there)
-- Index     benefit ("venueId"); benefit_usage ("personId", "benefitId", "usageTimestamp")
-- Trick     a use within the cooldown is looked for as a max() over an index range, which PostgreSQL answers
--           with one probe per benefit, however long the person's history is. Equals  not exists  of such a
--           use, which the planner may turn into a join with all of the person's uses
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        :person_id::bigint as person_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row per supported recurrence: how long after a use the benefit cannot be used again. In this file only
-- these lines know the numbers
cooldowns (recurrence, cooldown) as (
    values
    ('day', interval '24 hours'),
    ('week', interval '168 hours'),
    ('month', interval '720 hours')
),

-- one row per benefit of the venue that has a cooldown and was not used by the person within it
available as (
    select
        benefit.id,
        json_build_object(
            'id', benefit.id,
            'venueId', benefit."venueId",
            'title', benefit.title,
            'recurrence', benefit.recurrence
        ) as element
    from params
    inner join benefit on params.venue_id = benefit."venueId"
    inner join cooldowns on benefit.recurrence = cooldowns.recurrence
    where
        -- there is no use within the cooldown: the latest one is null
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
