-- The recommended indexes (see indexes.sql) that the database lacks, for a warning at the start.
--
-- Returns   one row: missing text, the tables and columns of the missing indexes (null when there are none)
with recommended (table_name, column_names) as (
    -- one row per index of indexes.sql
    values
    ('benefit', array['venueId']),
    ('benefit_usage', array['benefitId', 'usageTimestamp']),
    ('benefit_usage', array['personId', 'benefitId', 'usageTimestamp'])
),

-- one row per valid and not partial index of a table that the search path finds
present as (
    select
        pg_class.relname as table_name,
        array(
            select pg_attribute.attname::text as attname
            from unnest(pg_index.indkey) with ordinality as parts (column_no, part_no)
            inner join pg_attribute
                on
                    pg_attribute.attrelid = pg_index.indrelid
                    and parts.column_no = pg_attribute.attnum
            order by parts.part_no
        ) as column_names
    from pg_index
    inner join pg_class on pg_index.indrelid = pg_class.oid
    where
        pg_table_is_visible(pg_class.oid)
        and pg_index.indisvalid
        and pg_index.indpred is null
)

select
    string_agg(
        recommended.table_name || ' (' || array_to_string(recommended.column_names, ', ') || ')',
        '; '
        order by recommended.table_name, recommended.column_names
    ) as missing
from recommended
where
    -- an index that begins with the columns will do
    not exists (
        select from present
        where
            present.table_name = recommended.table_name
            and present.column_names[1:cardinality(recommended.column_names)] = recommended.column_names
    );
