-- The recommended indexes (see indexes.sql) that the database lacks, for a warning at the start.
--
-- Returns   one row: missing text, the tables and columns of the missing indexes, and how to mend one that is
--           there and invalid (null when there are none)
with recommended (table_name, column_names) as (
    -- one row per index of indexes.sql
    values
    ('benefit', array['venueId']),
    ('benefit_usage', array['benefitId', 'usageTimestamp']),
    ('benefit_usage', array['personId', 'benefitId', 'usageTimestamp'])
),

-- one row per btree index of all rows of a table that the search path finds, with the columns by which it is
-- sorted, null for an expression; invalid is one whose build was interrupted, and on Citus one that
-- indexes.sql found there
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

-- one row per recommended index: whether there is a valid one, and the name of one that is not. An index that
-- begins with the columns will do
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
        || coalesce(', invalid until: reindex index concurrently ' || found.index_name, ''),
        '; '
        order by found.table_name, found.column_names
    ) as missing
from found
where found.is_valid is not true;
