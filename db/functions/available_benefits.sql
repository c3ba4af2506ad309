-- name: available_benefits(venue_id, person_id, timestamp)^
-- The benefits of a venue that a person can use at a moment.
--
-- Serves    GET /venues/{venueId}/available-benefits
-- Returns   one row: body json, an array with one element per benefit, by id ([] when there are none);
--           missing text, the parameter that names nothing (null when all is there)
-- Index     benefit ("venueId"); benefit_usage ("personId", "benefitId", "usageTimestamp")
-- Trick     the latest use is a max() over an index range, which PostgreSQL answers with one probe per
--           benefit, however long the person's history is. Equals a left join of the person's uses
with params as not materialized (
    select
        :venue_id::bigint as venue_id,
        :person_id::bigint as person_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
),

-- one row per supported recurrence: the only place that knows the numbers
rules (recurrence, cooldown) as (
    values
    ('day', interval '24 hours'),
    ('week', interval '168 hours'),
    ('month', interval '720 hours')
),

-- one row per benefit of the venue that has a rule, with the person's latest use of it (null when none
-- within the cooldown);
-- materialized, since the planner would else copy the probe to both places that read last_used_at
offered as materialized (
    select
        benefit.id,
        benefit."venueId" as venue_id,
        benefit.title,
        benefit.recurrence,
        rules.cooldown,
        params.as_of,
        (
            select max(benefit_usage."usageTimestamp")
            from benefit_usage
            where
                benefit_usage."personId" = params.person_id
                and benefit_usage."benefitId" = benefit.id
                and benefit_usage."usageTimestamp" <= params.as_of
                -- an earlier use holds nothing back; saying so lets older partitions be left out
                and benefit_usage."usageTimestamp" > params.as_of - rules.cooldown
        ) as last_used_at
    from params
    inner join benefit on params.venue_id = benefit."venueId"
    inner join rules on benefit.recurrence = rules.recurrence
),

-- one row per benefit that is not cooling down
available as (
    select
        offered.id,
        json_build_object(
            'id', offered.id,
            'venueId', offered.venue_id,
            'title', offered.title,
            'recurrence', offered.recurrence
        ) as element
    from offered
    where
        offered.last_used_at is null
        or offered.last_used_at + offered.cooldown <= offered.as_of
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
