-- The recommended indexes (see indexes.sql) that are missing or invalid, for a warning at the start.
--
-- Returns   one row. missing (text): the tables and columns of these indexes, and how to repair invalid ones;
--           null if there are none
with recommended (table_name, column_names) as (
    -- one row per index of indexes.sql
    values
    ('benefit', array['venueId']),
    ('benefit_usage', array['benefitId', 'usageTimestamp']),
    ('benefit_usage', array['personId', 'benefitId', 'usageTimestamp'])
),

-- one row per non-partial btree index of a visible table: its key columns (null for an expression), and
-- whether it is valid. An index is invalid if its build was interrupted or, on Citus, if indexes.sql was run
-- again
present as (
    select
        pg_class.relname as table_name,
        pg_index.indexrelid::regclass::text as index_name,
        pg_index.indisvalid as is_valid,
        array(
            select pg_attribute.attname::text as attname
            from unnest(pg_index.indkey) with ordinality as parts (column_no, part_no)
            left join pg_attribute
                on
                    pg_attribute.attrelid = pg_index.indrelid
                    and parts.column_no = pg_attribute.attnum
            where parts.part_no <= pg_index.indnkeyatts
            order by parts.part_no
        ) as column_names
    from pg_index
    inner join pg_class on pg_index.indrelid = pg_class.oid
    inner join pg_class as of_index on pg_index.indexrelid = of_index.oid
    inner join pg_am on of_index.relam = pg_am.oid
    where
        pg_table_is_visible(pg_class.oid)
        and pg_index.indpred is null
        and pg_am.amname = 'btree'
),

-- one row per recommended index: whether a valid index exists, and the name of an existing one. An index with
-- further columns after these is accepted
found as (
    select
        recommended.table_name,
        recommended.column_names,
        bool_or(present.is_valid) as is_valid,
        min(present.index_name) as index_name
    from recommended
    left join present
        on
            recommended.table_name = present.table_name
            and recommended.column_names = present.column_names[1:cardinality(recommended.column_names)]
    group by
        recommended.table_name,
        recommended.column_names
)

select
    string_agg(
        found.table_name || ' (' || array_to_string(found.column_names, ', ') || ')'
        || coalesce(', invalid, repair with: reindex index concurrently ' || found.index_name, ''),
        '; '
        order by found.table_name, found.column_names
    ) as missing
from found
where found.is_valid is not true;
