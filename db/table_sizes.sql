-- The server, the database and the sizes of tables, for the output of `make explain` and `make compare`.
--
-- Variable  tables: table names, one per line; other names are ignored
-- Returns   one row. summary (text): two lines, and a third with a warning if all tables are small
with tables as (
    -- one row per table; for a partition, its partitioned table
    select distinct coalesce(pg_partition_root(pg_class.oid), pg_class.oid) as oid
    from regexp_split_to_table(nullif(:'tables', ''), E'\n') as named (table_name)
    inner join pg_class on to_regclass(named.table_name) = pg_class.oid
    where pg_class.relkind in ('r', 'p', 'm', 'f')
),

-- one row per table: its estimated rows (reltuples) and its size, including all partitions
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
                then 'warning: every table has fewer than 1,000,000 rows; plans for larger tables may differ'
        end
    ) as summary
from sizes;
