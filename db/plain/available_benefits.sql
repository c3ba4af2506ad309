-- name: available_benefits(venue_id, person_id, timestamp)^
-- The benefits of a venue that a person can use at a given time: the plain form.
--
-- Serves       GET /venues/{venueId}/available-benefits
-- Returns      one row. body (json): an array with one element per benefit, ordered by id. missing (text):
--              'venue_id' or 'person_id' if that id does not exist, else null. If not null, ignore body
-- Performance  Without an index, it reads all uses once

-- one row: the arguments. A null timestamp means now. as_of is in UTC without a time zone
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

-- one row per benefit of the venue with a supported recurrence that is not in its cooldown at as_of
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
    inner join cooldowns on benefit.recurrence::text = cooldowns.recurrence
    where
        not exists (
            select from benefit_usage
            where
                benefit_usage."personId" = params.person_id
                and benefit_usage."benefitId" = benefit.id
                and benefit_usage."usageTimestamp" <= params.as_of
                and benefit_usage."usageTimestamp" + cooldowns.cooldown > params.as_of
        )
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
