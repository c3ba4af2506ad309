-- Where a plan was made, for the head of `make explain`: the server, the database and the tables' sizes.
--
-- Variable  tables, names with a line break between them; what is not a table is passed over
-- Returns   one row: text of two lines, and a third that warns when all the tables are small
with tables as (
    -- one row per table; for a partition, the table that it is a part of
    select distinct coalesce(pg_partition_root(pg_class.oid), pg_class.oid) as oid
    from regexp_split_to_table(nullif(:'tables', ''), E'\n') as named (table_name)
    inner join pg_class on to_regclass(named.table_name) = pg_class.oid
    where pg_class.relkind in ('r', 'p', 'm', 'f')
),

-- one row per table, with the rows that its statistics know of, in all of its partitions
sizes as (
    select
        tables.oid::regclass::text as name,
        sum(greatest(pg_class.reltuples, 0))::bigint as row_count,
        sum(pg_table_size(pg_class.oid)) as bytes
    from tables
    cross join
        lateral (
            select tables.oid
            union distinct
            select parts.relid from pg_partition_tree(tables.oid) as parts
        ) as places (oid)
    inner join pg_class on places.oid = pg_class.oid
    where pg_class.relkind <> 'p'
    group by tables.oid
)

select
    concat_ws(
        E'\n',
        format('PostgreSQL %s, database %s', current_setting('server_version'), current_database()),
        string_agg(
            format('%s: %s rows, %s', name, to_char(row_count, 'FM999,999,999,990'), pg_size_pretty(bytes)),
            '; '
            order by row_count, name
        ),
        case
            when max(row_count) < 1000000
                then 'warning: less than a million rows in each; with more, plan and speed may differ'
        end
    ) as told
from sizes;
