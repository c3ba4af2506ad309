-- Sample data: one year of uses, relative to the current time and otherwise deterministic. Pseudo-random
-- values are md5() of ids, so they depend on no seed or version. Venue 1 and person 1 are the documented
-- examples. Venue 29 has no uses, and venue 30 has no benefits.

insert into venue (id, name)
select
    number as id,
    (array[
        'Harbour', 'Corner', 'Old Mill', 'Station', 'Garden', 'Lighthouse', 'Market', 'Attic', 'Brick',
        'River'
    ])[1 + (number - 1) % 10]
    || ' ' || (array['Bar', 'Kitchen', 'Club'])[1 + (number - 1) / 10] as name
from generate_series(1, 30) as numbers (number);

insert into person (id, name)
select
    number as id,
    (array['Ada', 'Ben', 'Chloe', 'Dario', 'Elsa', 'Femi', 'Greta', 'Hugo', 'Ines', 'Jonas'])[
        1 + (number - 1) % 10
    ]
    || ' ' || (array[
        'Adams', 'Berg', 'Costa', 'Diaz', 'Evans', 'Fischer', 'Garcia', 'Hansen', 'Ito', 'Jensen',
        'Kaya', 'Lopez', 'Moreau', 'Novak', 'Okafor', 'Petrov', 'Quinn', 'Rossi', 'Silva', 'Tan'
    ])[1 + (number - 1) / 10 % 20] as name
from generate_series(1, 400) as numbers (number);

insert into benefit (id, "venueId", title, recurrence)
values
(1, 1, 'Corona beer $6', 'day'),
(2, 1, 'Cocktails -50%', 'week'),
(3, 1, 'All burgers -50%', 'week'),
(4, 1, 'Coffee with every breakfast', 'day'),
(5, 1, 'Dessert on the house', 'month'),
(6, 1, 'Birthday cake for two', 'month'),
(7, 1, 'New Year''s Eve table', 'year');

insert into benefit (id, "venueId", title, recurrence)
select
    7 + row_number() over (order by venue.id, offers.place) as id,
    venue.id as "venueId",
    offers.title,
    offers.recurrence
from venue
cross join (
    values
    (1, 'House beer $5', 'day'),
    (2, 'Espresso $1', 'day'),
    (3, 'All pizzas -50%', 'week'),
    (4, 'Two cocktails for one', 'week'),
    (5, 'Lunch -30%', 'day'),
    (6, 'Bottle of wine -50%', 'month'),
    (7, 'Dinner for two -25%', 'month')
) as offers (place, title, recurrence)
where
    venue.id between 2 and 29
    and (venue.id + offers.place) % 4 <> 0;

-- one row per benefit of venue 1: the share of people who use it, and the period without uses, in days ago
with overrides (benefit_id, popularity, unused_from, unused_to) as (
    values
    (1, 0.9, null, null),
    (2, 0.8, 131, 105),
    (3, 0.6, 152, 128),
    (4, 0.7, 40, 0),
    (5, 0.5, 170, 120),
    (6, 0.0, null, null),
    (7, 0.1, null, null)
),

-- one row per benefit: its cooldown, the length of an interval as a multiple of it, and the columns of
-- overrides
plans as materialized (
    select
        benefit.id as benefit_id,
        benefit."venueId" as venue_id,
        case benefit.recurrence
            when 'day' then interval '1 day'
            when 'week' then interval '7 days'
            when 'month' then interval '30 days'
            else interval '364 days'
        end as cooldown,
        case benefit.recurrence when 'day' then 4.0 else 1.5 end as interval_factor,
        coalesce(overrides.popularity, benefit.id * 37 % 90 / 100.0) as popularity,
        case
            when overrides.benefit_id is not null then overrides.unused_from
            when benefit.id % 5 = 0 then 20 + benefit.id * 61 % 150
        end as unused_from,
        case
            when overrides.benefit_id is not null then overrides.unused_to
            when benefit.id % 10 = 0 then 0
            else (20 + benefit.id * 61 % 150) / 2
        end as unused_to
    from benefit
    left join overrides on benefit.id = overrides.benefit_id
    where benefit."venueId" < 29
),

-- one row per benefit and person who uses it; the uses of person 1 at venue 1 are below
members as materialized (
    select
        plans.*,
        person.id as person_id
    from plans
    inner join person on (person.id + plans.venue_id) % 13 in (0, 1)
    where
        ('x' || substr(md5(concat_ws(' ', person.id, plans.benefit_id)), 1, 7))::bit(28)::integer
        < plans.popularity * 268435456
        and not (person.id = 1 and plans.venue_id = 1)
),

-- one row per use. The year is divided into intervals, counted back from now. The k-th use is at a random
-- time in the k-th interval, at least one cooldown after its start, so uses are at least one cooldown apart
uses as (
    select
        members.*,
        date_trunc('second', now() at time zone 'UTC')
        - members.cooldown * members.interval_factor * intervals.k
        - members.cooldown * (
            (members.interval_factor - 1)
            * ('x' || substr(md5(concat_ws(' ', members.person_id, members.benefit_id, intervals.k)), 1, 7))
            ::bit(28)::integer / 268435456
        ) as used_at
    from members
    cross join generate_series(0, 100) as intervals (k)
    where members.cooldown * members.interval_factor * intervals.k < interval '365 days'
)

insert into benefit_usage ("personId", "benefitId", "usageTimestamp")
select
    uses.person_id,
    uses.benefit_id,
    date_trunc('second', uses.used_at) as used_at
from uses
where
    uses.unused_from is null
    or uses.used_at < date_trunc('second', now() at time zone 'UTC') - interval '1 day' * uses.unused_from
    or uses.used_at > date_trunc('second', now() at time zone 'UTC') - interval '1 day' * uses.unused_to
order by uses.used_at, uses.person_id, uses.benefit_id;

-- person 1 at venue 1: benefits 1 and 2 are in their cooldown, 3 is available again
insert into benefit_usage ("personId", "benefitId", "usageTimestamp")
select
    1 as "personId",
    uses.benefit_id,
    date_trunc('second', now() at time zone 'UTC') - uses.ago as used_at
from (
    values
    (1, interval '50 hours'),
    (1, interval '3 hours'),
    (2, interval '2 days'),
    (3, interval '9 days'),
    (5, interval '45 days')
) as uses (benefit_id, ago);

-- new rows continue after these ids
select
    setval(pg_get_serial_sequence('venue', 'id'), (select max(venue.id) from venue)) as venue,
    setval(pg_get_serial_sequence('person', 'id'), (select max(person.id) from person)) as person,
    setval(pg_get_serial_sequence('benefit', 'id'), (select max(benefit.id) from benefit)) as benefit;

-- the temporary database ends before autovacuum runs
vacuum (analyze) benefit_usage, benefit, person, venue;
