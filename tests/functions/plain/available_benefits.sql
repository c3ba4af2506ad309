-- name: available_benefits(venue_id, person_id, timestamp)^
-- The plain form of available_benefits, and the oracle that it is compared with: it reads all of the
-- person's uses.
with params as (
    select
        :venue_id::bigint as venue_id,
        :person_id::bigint as person_id,
        coalesce(:timestamp::timestamptz, now()) at time zone 'UTC' as as_of
)

select
    coalesce(
        json_agg(
            json_build_object(
                'id', benefit.id,
                'venueId', benefit."venueId",
                'title', benefit.title,
                'recurrence', benefit.recurrence
            )
            order by benefit.id
        ),
        '[]'
    ) as body
from params
cross join benefit
where
    benefit."venueId" = params.venue_id
    and benefit.recurrence in ('day', 'week', 'month')
    and not exists (
        select from benefit_usage
        where
            benefit_usage."benefitId" = benefit.id
            and benefit_usage."personId" = params.person_id
            and benefit_usage."usageTimestamp" <= params.as_of
            and benefit_usage."usageTimestamp" + case benefit.recurrence
                when 'day' then interval '24 hours'
                when 'week' then interval '168 hours'
                when 'month' then interval '720 hours'
            end > params.as_of
    );
