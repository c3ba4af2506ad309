-- A year of a small town's venues, relative to now and otherwise the same every time it is loaded.
-- Chance is md5() of the row's numbers, so it depends on no seed and no PostgreSQL version.
-- The story is told by venue 1 and person 1; the last two venues have no uses and no benefits.

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

-- one row per use of a person at one of his venues: the k-th use falls at a random moment of the k-th
-- stretch, which is so much longer than the cooldown that no two uses are closer than the cooldown
with story (benefit_id, popularity, silent_from, silent_to) as (
    -- who takes part, and between how many days ago nobody did
    values
    (1, 0.9, null, null),
    (2, 0.8, 131, 105),
    (3, 0.6, 152, 128),
    (4, 0.7, 40, 0),
    (5, 0.5, 170, 120),
    (6, 0.0, null, null),
    (7, 0.1, null, null)
),

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
        case benefit.recurrence when 'day' then 4.0 else 1.5 end as stretch,
        coalesce(story.popularity, benefit.id * 37 % 90 / 100.0) as popularity,
        case
            when story.benefit_id is not null then story.silent_from
            when benefit.id % 5 = 0 then 20 + benefit.id * 61 % 150
        end as silent_from,
        case
            when story.benefit_id is not null then story.silent_to
            when benefit.id % 10 = 0 then 0
            else (20 + benefit.id * 61 % 150) / 2
        end as silent_to
    from benefit
    left join story on benefit.id = story.benefit_id
    where benefit."venueId" < 29
),

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

uses as (
    select
        members.*,
        date_trunc('second', now() at time zone 'UTC')
        - members.cooldown * members.stretch * steps.step_no
        - members.cooldown * (
            (members.stretch - 1)
            * ('x' || substr(md5(concat_ws(' ', members.person_id, members.benefit_id, steps.step_no)), 1, 7))
            ::bit(28)::integer / 268435456
        ) as used_at
    from members
    cross join generate_series(0, 100) as steps (step_no)
    where members.cooldown * members.stretch * steps.step_no < interval '365 days'
)

insert into benefit_usage ("personId", "benefitId", "usageTimestamp")
select
    uses.person_id,
    uses.benefit_id,
    date_trunc('second', uses.used_at) as used_at
from uses
where
    uses.silent_from is null
    or uses.used_at < date_trunc('second', now() at time zone 'UTC') - interval '1 day' * uses.silent_from
    or uses.used_at > date_trunc('second', now() at time zone 'UTC') - interval '1 day' * uses.silent_to
order by uses.used_at, uses.person_id, uses.benefit_id;

-- person 1 at venue 1: the beer was today and the cocktails were this week, the burgers can be had again
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

-- the next rows follow the numbers given here
select
    setval(pg_get_serial_sequence('venue', 'id'), (select max(venue.id) from venue)) as venue,
    setval(pg_get_serial_sequence('person', 'id'), (select max(person.id) from person)) as person,
    setval(pg_get_serial_sequence('benefit', 'id'), (select max(benefit.id) from benefit)) as benefit;

-- what autovacuum does in a database that lives longer
vacuum (analyze) benefit_usage, benefit, person, venue;
